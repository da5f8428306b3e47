"""The state: which version serves, by which threshold, beside which candidate, and who decided that; small files.

Each is replaced whole, and only where nobody else has changed it meanwhile. Every change is told to the audit first,
one object an event.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Self, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.store import paths
from app.store.errors import ChangedMeanwhile, DamagedState, NoTransition
from app.store.paths import Place
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


class Whatever:
    """In place of a decision: it does not matter which."""


WHATEVER: Final = Whatever()
AnyDecision = TypeVar("AnyDecision", bound=Decided)


@dataclass(frozen=True)
class State:
    """A place with one folder a product."""

    root: Place

    @property
    def trouble(self) -> str | None:
        """Why copies stand in for the state, None where they do not."""
        return paths.trouble_of(self.root)

    def current_path(self, product: str) -> Place:
        """Where a product's ``current.json`` lies; raises BadName."""
        return self.root / check_product(product) / "current.json"

    def override_path(self, product: str) -> Place:
        """Where a product's ``override.json`` lies; raises BadName."""
        return self.current_path(product).with_name("override.json")

    def shadow_path(self, product: str) -> Place:
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
        paths.check_writable(self.root / check_product(product))

    def activate(  # a decision says who, when and why
        self,
        product: str,
        version: str,
        *,
        at: datetime,
        by: str,
        why: str,
        after: Activation | Whatever | None = WHATEVER,
    ) -> Activation:
        """Make a version the one that serves. The caller has made sure that it can.

        ``after``: what must have been activated last. Raises StoreUnusable, ChangedMeanwhile.
        """
        path = self.current_path(product)
        before, tag = paths.tagged(path, lambda: self.current(product))
        if not isinstance(after, Whatever) and before != after:
            raise ChangedMeanwhile(product)
        previous = before.previous if before and before.version == version else before and before.version
        activation = Activation(version=check_version(version), previous=previous, at=at, by=by, why=why)
        change = {"from": activation.previous, "to": activation.version}
        self._decide(product, "activate", activation, change, swapping(path, activation, instead_of=tag))
        return activation

    def override(self, product: str, override: Override) -> None:
        """Let another threshold hold. Raises StoreUnusable, ChangedMeanwhile."""
        path = self.override_path(product)
        before, tag = paths.tagged(path, lambda: read_decision(path, Override))
        change = {"from": in_short(before), "to": in_short(override)}
        self._decide(product, "threshold", override, change, swapping(path, override, instead_of=tag))

    def lift_override(self, product: str, decided: Decided) -> None:
        """Let the version's own threshold hold again."""
        path = self.override_path(product)
        before, tag = paths.tagged(path, lambda: read_decision(path, Override))
        change = {"from": in_short(before), "to": None}
        self._decide(product, "threshold", decided, change, partial(paths.discard, path, instead_of=tag))

    def shadow(self, product: str, order: ShadowOrder) -> None:
        """Let a candidate judge beside the version that serves. The caller has made sure that it can."""
        path = self.shadow_path(product)
        change = {"to": order.version, "share": order.share}
        self._decide(product, "shadow", order, change, swapping(path, order, instead_of=paths.tag(path)))

    def end_shadow(self, product: str, decided: Decided) -> None:
        """Let no candidate judge any more."""
        path = self.shadow_path(product)
        tag = paths.tag(path)
        self._decide(product, "shadow", decided, {"to": None}, partial(paths.discard, path, instead_of=tag))

    def _decide(
        self,
        product: str,
        event: str,
        decision: Decided,
        change: Mapping[str, object],
        act: Callable[[], bool],
    ) -> None:
        """Tell the audit, then act. Raises ChangedMeanwhile where that is refused; then the audit is told that too."""
        self.record(product, event, decision, change)
        if not act():
            self.record(product, f"{event} not done", decision, change)
            raise ChangedMeanwhile(product)

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
        paths.replace(path, json.dumps(entry, indent=1).encode() + b"\n")


def read_decision(place: Place, kind: type[AnyDecision]) -> AnyDecision | None:
    """The decision in a file, None where there is no such file. Raises DamagedState, StoreUnusable."""
    data = paths.read(place)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise DamagedState(place, error.errors()[0]["msg"]) from None


def swapping(place: Place, decision: Decided, *, instead_of: str) -> Callable[[], bool]:
    """What puts a decision in place of what has this tag, if it still has it."""
    return partial(paths.swap, place, decision.model_dump_json(indent=1).encode() + b"\n", instead_of=instead_of)


def in_short(override: Override | None) -> dict[str, object] | None:
    """What an override says of the threshold, for the audit."""
    return override.model_dump(include={"false_alarm_rate", "threshold", "version"}) if override else None
