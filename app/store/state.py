"""The state: which version serves, by which threshold, beside which candidate, and who decided that; small files.

Each is replaced whole. Every change is told to the audit first, one object an event.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.store.errors import DamagedState, NoTransition
from app.store.files import check_writable, remove_file, replace_file, reporting_trouble
from model.bundle import BadName, check_product, check_version


class Decided(BaseModel):
    """A decision of people, or of a program of theirs: who, when and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    by: str
    why: str


class Activation(Decided):
    """``current.json``: the version that serves, and the one before it."""

    version: str
    previous: str | None


class Override(Decided):
    """``override.json``: another threshold than the version's own.

    Either a false-alarm rate, from which each version's threshold is derived, or a value, which holds for one version.
    """

    false_alarm_rate: float | None = Field(default=None, gt=0, lt=1)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    version: str | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.false_alarm_rate is None) == (self.threshold is None):
            raise ValueError("say either a false_alarm_rate or a threshold")
        if (self.threshold is None) != (self.version is None):
            raise ValueError("a threshold is for one version, a false_alarm_rate for all")
        return self


class ShadowOrder(Decided):
    """``shadow.json``: a candidate that judges a share of the live images beside the version that serves."""

    version: str
    share: float = Field(gt=0, le=1)


@dataclass(frozen=True)
class Orders:
    """All that was decided of a product; ``current`` is None where nothing was ever activated.

    ``shadow_fault``: why the order for a candidate can't be read, which keeps nothing else from serving.
    """

    current: Activation | None
    override: Override | None
    shadow: ShadowOrder | None
    shadow_fault: str | None = None


AnyDecision = TypeVar("AnyDecision", bound=Decided)


@dataclass(frozen=True)
class State:
    """A folder with one folder a product."""

    root: Path

    def current_path(self, product: str) -> Path:
        """Where a product's ``current.json`` lies; raises BadName."""
        return self.root / check_product(product) / "current.json"

    def override_path(self, product: str) -> Path:
        """Where a product's ``override.json`` lies; raises BadName."""
        return self.current_path(product).with_name("override.json")

    def shadow_path(self, product: str) -> Path:
        """Where a product's ``shadow.json`` lies; raises BadName."""
        return self.current_path(product).with_name("shadow.json")

    def orders(self, product: str) -> Orders:
        """Everything that was decided. Raises DamagedState, StoreUnusable, BadName."""
        shadow, shadow_fault = None, None
        try:
            shadow = read_decision(self.shadow_path(product), ShadowOrder)
            if shadow is not None:
                check_version(shadow.version)
        except (DamagedState, BadName) as error:
            shadow, shadow_fault = None, str(error)
        override = read_decision(self.override_path(product), Override)
        return Orders(self.current(product), override, shadow, shadow_fault)

    def current(self, product: str) -> Activation | None:
        """What was activated last, None where nothing ever was. Raises DamagedState, StoreUnusable."""
        activation = read_decision(self.current_path(product), Activation)
        if activation is not None:
            check_version(activation.version)
        return activation

    def check_writable(self, product: str) -> None:
        """Raise StoreUnusable where this user could not activate a version."""
        check_writable(self.root / check_product(product))

    def activate(self, product: str, version: str, *, at: datetime, by: str, why: str) -> Activation:
        """Make a version the one that serves. The caller has made sure that it can. Raises StoreUnusable."""
        activation = Activation(
            version=check_version(version),
            previous=self._version_before(product, version),
            at=at,
            by=by,
            why=why,
        )
        self.record(product, "activate", activation, {"from": activation.previous, "to": activation.version})
        write_decision(self.current_path(product), activation)
        return activation

    def override(self, product: str, override: Override) -> None:
        """Let another threshold hold. Raises StoreUnusable."""
        before = read_decision(self.override_path(product), Override)
        change = {"from": in_short(before), "to": in_short(override)}
        self.record(product, "threshold", override, change)
        write_decision(self.override_path(product), override)

    def lift_override(self, product: str, decided: Decided) -> None:
        """Let the version's own threshold hold again."""
        before = read_decision(self.override_path(product), Override)
        self.record(product, "threshold", decided, {"from": in_short(before), "to": None})
        remove_file(self.override_path(product))

    def shadow(self, product: str, order: ShadowOrder) -> None:
        """Let a candidate judge beside the version that serves. The caller has made sure that it can."""
        self.record(product, "shadow", order, {"to": order.version, "share": order.share})
        write_decision(self.shadow_path(product), order)

    def end_shadow(self, product: str, decided: Decided) -> None:
        """Let no candidate judge any more."""
        self.record(product, "shadow", decided, {"to": None})
        remove_file(self.shadow_path(product))

    def _version_before(self, product: str, version: str) -> str | None:
        """What a rollback goes to; activating what serves already leaves that as it was."""
        before = self.current(product)
        if before is None:
            return None
        return before.previous if before.version == version else before.version

    def previous(self, product: str) -> str:
        """The version that served before the current one; raises NoTransition."""
        current = self.current(product)
        if current is None or current.previous is None:
            raise NoTransition(product)
        return current.previous

    def record(self, product: str, event: str, decided: Decided, change: Mapping[str, object]) -> None:
        """One audit object: who, when, from, to, why. Written before the change, so that none goes unrecorded."""
        name = f"{decided.at:%Y%m%dt%H%M%S.%fz}-{uuid4().hex[:8]}.json"
        entry = {"event": event, "at": decided.at.isoformat(), "by": decided.by, **change, "why": decided.why}
        path = self.root / check_product(product) / "audit" / name
        replace_file(path, json.dumps(entry, indent=1).encode() + b"\n")


def read_decision(path: Path, kind: type[AnyDecision]) -> AnyDecision | None:
    """The decision in a file, None where there is no such file. Raises DamagedState, StoreUnusable."""
    with reporting_trouble(path.parent):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise DamagedState(path, error.errors()[0]["msg"]) from None


def write_decision(path: Path, decision: Decided) -> None:
    """Replace a file by this decision."""
    replace_file(path, decision.model_dump_json(indent=1).encode() + b"\n")


def in_short(override: Override | None) -> dict[str, object] | None:
    """What an override says of the threshold, for the audit."""
    return override.model_dump(include={"false_alarm_rate", "threshold", "version"}) if override else None
