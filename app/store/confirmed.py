"""Images that people have labelled, with who said what and when: what the next training learns from and is held to.

``<state>/<product>/confirmed/{ok,ng}/<sha256>.<suffix>`` are the bytes as they came,
``confirmed/history/<sha256>.json`` their labels, the last of which holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.store.errors import DamagedState
from app.store.files import remove_file, replace_file, reporting_trouble
from app.store.state import Decided, State
from model.bundle import Sha256, check_product, sha256_hex

Label = Literal["ok", "ng"]
LABELS: tuple[Label, ...] = get_args(Label)


class Confirmation(Decided):
    """One label: ``part_id`` and ``version`` as they were known to who gave it."""

    label: Label
    part_id: str = ""
    version: str | None = None


class Confirmed(BaseModel):
    """An image with every label it was given, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    suffix: str
    history: tuple[Confirmation, ...] = Field(min_length=1)

    @property
    def label(self) -> Label:
        """The label that holds."""
        return self.history[-1].label

    @property
    def at(self) -> datetime:
        """When it was labelled last."""
        return self.history[-1].at


@dataclass(frozen=True)
class Feedback:
    """Every product's confirmed images."""

    state: State

    def keep(self, product: str, data: bytes, *, suffix: str, confirmation: Confirmation) -> Confirmed:
        """Keep an image under its label, or give one that is kept another. Raises StoreUnusable, DamagedState."""
        sha256 = sha256_hex(data)
        before = self.confirmed(product, sha256)
        history = (*before.history, confirmation) if before else (confirmation,)
        now = Confirmed(sha256=sha256, suffix=before.suffix if before else suffix, history=history)
        change = {"from": before.label if before else None, "to": confirmation.label, "sha256": sha256}
        replace_file(self._image_path(product, now), data)
        self.state.record(product, "feedback", confirmation, change)
        replace_file(self._history_path(product, sha256), now.model_dump_json(indent=1).encode() + b"\n")
        if before is not None and before.label != now.label:
            remove_file(self._image_path(product, before))
        return now

    def confirmed(self, product: str, sha256: str) -> Confirmed | None:
        """What was said of an image, None where nothing was. Raises StoreUnusable, DamagedState."""
        path = self._history_path(product, sha256)
        with reporting_trouble(path.parent):
            if not path.is_file():
                return None
            data = path.read_bytes()
        try:
            return Confirmed.model_validate_json(data)
        except ValidationError as error:
            raise DamagedState(path, error.errors()[0]["msg"]) from None

    def all(self, product: str) -> tuple[Confirmed, ...]:
        """Everything that was labelled, by digest. Raises StoreUnusable, DamagedState."""
        folder = self._folder(product) / "history"
        with reporting_trouble(folder):
            names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
        found = (self.confirmed(product, name) for name in names)
        return tuple(one for one in found if one is not None)

    def images(self, product: str, label: Label) -> tuple[Path, ...]:
        """The files of images whose label this is. Raises StoreUnusable, DamagedState."""
        return tuple(self._image_path(product, one) for one in self.all(product) if one.label == label)

    def forget(self, product: str, images: Iterable[Confirmed]) -> None:
        """Remove images and what was said of them; the audit keeps that they were there. Raises StoreUnusable."""
        for one in images:
            remove_file(self._image_path(product, one))
            remove_file(self._history_path(product, one.sha256))

    def _folder(self, product: str) -> Path:
        return self.state.root / check_product(product) / "confirmed"

    def _image_path(self, product: str, one: Confirmed) -> Path:
        return self._folder(product) / one.label / f"{one.sha256}{one.suffix}"

    def _history_path(self, product: str, sha256: str) -> Path:
        return self._folder(product) / "history" / f"{sha256}.json"
