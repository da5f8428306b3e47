"""The state: which version serves, and who decided that; small files, replaced whole."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from app.store.errors import DamagedState, NoTransition
from app.store.files import check_writable, replace_file, reporting_trouble
from model.bundle import check_product, check_version


class Activation(BaseModel):
    """``current.json``: the version that serves, the one before it, and who decided when and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    previous: str | None
    at: datetime
    by: str
    why: str


@dataclass(frozen=True)
class State:
    """A folder with one folder a product."""

    root: Path

    def current_path(self, product: str) -> Path:
        """Where a product's ``current.json`` lies; raises BadName."""
        return self.root / check_product(product) / "current.json"

    def current(self, product: str) -> Activation | None:
        """What was activated last, None where nothing ever was. Raises DamagedState, StoreUnusable."""
        path = self.current_path(product)
        with reporting_trouble(path.parent):
            if not path.is_file():
                return None
            data = path.read_bytes()
        try:
            activation = Activation.model_validate_json(data)
        except ValidationError as error:
            raise DamagedState(path, error.errors()[0]["msg"]) from None
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
        self._record(product, "activate", activation)
        replace_file(self.current_path(product), activation.model_dump_json(indent=1).encode() + b"\n")
        return activation

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

    def _record(self, product: str, event: str, activation: Activation) -> None:
        """One audit object: who, when, from, to, why. Written before the change, so that none goes unrecorded."""
        name = f"{activation.at:%Y%m%dt%H%M%S.%fz}-{uuid4().hex[:8]}.json"
        entry = {
            "event": event,
            "at": activation.at.isoformat(),
            "by": activation.by,
            "from": activation.previous,
            "to": activation.version,
            "why": activation.why,
        }
        path = self.root / check_product(product) / "audit" / name
        replace_file(path, json.dumps(entry, indent=1).encode() + b"\n")
