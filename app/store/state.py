"""The state: serving version, threshold and candidate of each product, with the author of each decision.

Each file is replaced whole, and only if it has not changed since it was read. Every change is written to the audit
first, one object an event.
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
from app.store.errors import Conflict, DamagedState, StoreError
from app.store.paths import StoragePath
from model.bundle import BadName, check_product, check_version


class Decision(BaseModel):
    """A decision of a person or a program: who, when and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    by: str
    why: str


class Activation(Decision):
    """``current.json``: the serving version, and the one before it."""

    version: str
    previous: str | None


class Override(Decision):
    """``override.json``: another threshold than the version's own.

    Either a false-alarm rate, from which each version's threshold is derived, or a value, which holds for one version.
    """

    false_alarm_rate: float | None = Field(default=None, gt=0, lt=1)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    version: str | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.false_alarm_rate is None) == (self.threshold is None):
            raise ValueError("give either a false_alarm_rate or a threshold")
        if (self.threshold is None) != (self.version is None):
            raise ValueError("a threshold requires a version; a false_alarm_rate applies to all versions")
        return self


class ShadowDecision(Decision):
    """``shadow.json``: a candidate that inspects a share of the live images."""

    version: str
    share: float = Field(gt=0, le=1)


@dataclass(frozen=True)
class ProductState:
    """All decisions about a product; ``current`` is None where no version was activated.

    ``shadow_error``: why ``shadow.json`` can't be read; the product serves all the same.
    """

    current: Activation | None
    override: Override | None
    shadow: ShadowDecision | None
    shadow_error: str | None = None


class AnyVersion:
    """A marker: the previous activation does not matter."""


# The files of a product.
CURRENT, OVERRIDE, SHADOW = FILES = ("current.json", "override.json", "shadow.json")
ANY_VERSION: Final = AnyVersion()
AnyDecision = TypeVar("AnyDecision", bound=Decision)


@dataclass(frozen=True)
class State:
    """A storage with one folder a product."""

    root: StoragePath

    @property
    def error(self) -> str | None:
        """Why copies of the state are used; None where they are not."""
        return paths.get_error(self.root)

    def product_folder(self, product: str) -> StoragePath:
        """Return the path of a product's decisions. Raises BadName."""
        return self.root / check_product(product)

    def current_path(self, product: str) -> StoragePath:
        """Return the path of a product's ``current.json``. Raises BadName."""
        return self.product_folder(product) / CURRENT

    def override_path(self, product: str) -> StoragePath:
        """Return the path of a product's ``override.json``. Raises BadName."""
        return self.product_folder(product) / OVERRIDE

    def shadow_path(self, product: str) -> StoragePath:
        """Return the path of a product's ``shadow.json``. Raises BadName."""
        return self.product_folder(product) / SHADOW

    def read(self, product: str) -> ProductState:
        """Return all decisions about a product. Raises DamagedState, StoreUnusable, BadName."""
        shadow, shadow_fault = None, None
        try:
            shadow = read_decision(self.shadow_path(product), ShadowDecision)
            if shadow is not None:
                check_version(shadow.version)
        except (DamagedState, BadName) as error:
            shadow, shadow_fault = None, str(error)
        override = read_decision(self.override_path(product), Override)
        return ProductState(self.read_current(product), override, shadow, shadow_fault)

    def read_current(self, product: str) -> Activation | None:
        """Return the last activation, or None. Raises DamagedState, StoreUnusable."""
        activation = read_decision(self.current_path(product), Activation)
        if activation is not None:
            check_version(activation.version)
        return activation

    def check_writable(self, product: str) -> None:
        """Raise StoreUnusable where this user can't activate a version."""
        paths.check_writable(self.product_folder(product))

    def activate(  # a decision records who, when and why
        self,
        product: str,
        version: str,
        *,
        at: datetime,
        by: str,
        why: str,
        after: Activation | AnyVersion | None = ANY_VERSION,
    ) -> Activation:
        """Make a version the serving one. The caller has verified it.

        ``after``: the activation that must be replaced. Raises StoreUnusable, Conflict.
        """
        path = self.current_path(product)
        before, tag = paths.read_with_etag(path, lambda: self.read_current(product))
        if not isinstance(after, AnyVersion) and before != after:
            raise Conflict(product)
        previous = before.previous if before and before.version == version else before and before.version
        activation = Activation(version=check_version(version), previous=previous, at=at, by=by, why=why)
        change = {"from": activation.previous, "to": activation.version}
        self._decide(product, "activate", activation, change, make_swap(path, activation, instead_of=tag))
        return activation

    def set_override(self, product: str, override: Override) -> None:
        """Set another threshold. Raises StoreUnusable, Conflict."""
        path = self.override_path(product)
        before, tag = paths.read_with_etag(path, lambda: read_decision(path, Override))
        change = {"from": summarise_override(before), "to": summarise_override(override)}
        self._decide(product, "threshold", override, change, make_swap(path, override, instead_of=tag))

    def clear_override(self, product: str, decided: Decision) -> None:
        """Restore the version's own threshold."""
        path = self.override_path(product)
        before, tag = paths.read_with_etag(path, lambda: read_decision(path, Override))
        change = {"from": summarise_override(before), "to": None}
        self._decide(product, "threshold", decided, change, partial(paths.compare_and_remove, path, instead_of=tag))

    def set_shadow(self, product: str, decision: ShadowDecision) -> None:
        """Set a candidate. The caller has verified it."""
        path = self.shadow_path(product)
        change = {"to": decision.version, "share": decision.share}
        self._decide(product, "shadow", decision, change, make_swap(path, decision, instead_of=paths.get_etag(path)))

    def clear_shadow(self, product: str, decided: Decision) -> None:
        """Remove the candidate."""
        path = self.shadow_path(product)
        tag = paths.get_etag(path)
        self._decide(product, "shadow", decided, {"to": None}, partial(paths.compare_and_remove, path, instead_of=tag))

    def _decide(
        self,
        product: str,
        event: str,
        decision: Decision,
        change: Mapping[str, object],
        act: Callable[[], bool],
    ) -> None:
        """Write to the audit, then act. Raises Conflict where ``act`` is refused; the audit records that too."""
        self.write_audit(product, event, decision, change)
        if not act():
            self.write_audit(product, f"{event} not done", decision, change)
            raise Conflict(product)

    def read_previous(self, product: str) -> str:
        """Return the version that served before the current one. Raises StoreError."""
        current = self.read_current(product)
        if current is None or current.previous is None:
            raise StoreError(
                f"product '{product}' has no earlier active version to roll back to", kind="nothing-earlier"
            )
        return current.previous

    def write_audit(self, product: str, event: str, decided: Decision, change: Mapping[str, object]) -> None:
        """Write one audit object: who, when, from, to, why. Written before the change."""
        name = f"{decided.at:%Y%m%dt%H%M%S.%fz}-{uuid4().hex[:8]}.json"
        entry = {"event": event, "at": decided.at.isoformat(), "by": decided.by, **change, "why": decided.why}
        path = self.product_folder(product) / "audit" / name
        paths.replace(path, json.dumps(entry, indent=1).encode() + b"\n")


def read_decision(path: StoragePath, kind: type[AnyDecision]) -> AnyDecision | None:
    """Return the decision in a file, or None. Raises DamagedState, StoreUnusable."""
    data = paths.read(path)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise DamagedState(path, error.errors()[0]["msg"]) from None


def make_swap(path: StoragePath, decision: Decision, *, instead_of: str) -> Callable[[], bool]:
    """Return a function that replaces a file by a decision if its tag is still ``instead_of``."""
    return partial(
        paths.compare_and_swap, path, decision.model_dump_json(indent=1).encode() + b"\n", instead_of=instead_of
    )


def summarise_override(override: Override | None) -> dict[str, object] | None:
    """Return the threshold of an override, for the audit."""
    return override.model_dump(include={"false_alarm_rate", "threshold", "version"}) if override else None
