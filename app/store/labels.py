"""Images that people have labelled, with who said what and when: what the next training learns from and is held to.

``<state>/<product>/confirmed/{ok,ng}/<sha256>.<suffix>`` are the bytes as they came,
``confirmed/history/<sha256>.json`` their labels, the last of which holds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.store import paths
from app.store.errors import ChangedMeanwhile, DamagedState
from app.store.paths import Place
from app.store.state import Decided, State
from model.bundle import DigestMismatch, Sha256, check_digest, check_product, sha256_hex

Label = Literal["ok", "ng"]
LABELS: tuple[Label, ...] = get_args(Label)
HISTORY, HISTORY_PATTERN = ".json", r"[0-9a-f]{64}\.json"


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
        """Keep an image under its label, or give one that is kept another.

        Raises StoreUnusable, DamagedState, and ChangedMeanwhile where somebody labels it at the same moment.
        """
        sha256 = sha256_hex(data)
        path = self._history_path(product, sha256)
        before, tag = paths.tagged(path, lambda: self.confirmed(product, sha256))
        history = (*before.history, confirmation) if before else (confirmation,)
        now = Confirmed(sha256=sha256, suffix=before.suffix if before else suffix, history=history)
        change = {"from": before.label if before else None, "to": confirmation.label, "sha256": sha256}
        paths.replace(self._image_path(product, now), data)
        self.state.record(product, "feedback", confirmation, change)
        if not paths.swap(path, now.model_dump_json(indent=1).encode() + b"\n", instead_of=tag):
            self._take_back(product, now, confirmation, change)
            raise ChangedMeanwhile(product)
        if before is not None and before.label != now.label:
            paths.remove(self._image_path(product, before))
        return now

    def _take_back(
        self, product: str, mine: Confirmed, confirmation: Confirmation, change: Mapping[str, object]
    ) -> None:
        """Of two labels at the same moment this one came second: the image stays only where the other put it."""
        self.state.record(product, "feedback not done", confirmation, change)
        theirs = self.confirmed(product, mine.sha256)
        if theirs is None or self._image_path(product, theirs) != self._image_path(product, mine):
            paths.remove(self._image_path(product, mine))

    def confirmed(self, product: str, sha256: str) -> Confirmed | None:
        """What was said of an image, None where nothing was. Raises StoreUnusable, DamagedState."""
        path = self._history_path(product, sha256)
        data = paths.read(path)
        if data is None:
            return None
        try:
            return Confirmed.model_validate_json(data)
        except ValidationError as error:
            raise DamagedState(path, error.errors()[0]["msg"]) from None

    def all(self, product: str) -> tuple[Confirmed, ...]:
        """Everything that was labelled, by digest. Raises StoreUnusable, DamagedState."""
        names = paths.files_in(self._folder(product) / "history", HISTORY_PATTERN)
        found = (self.confirmed(product, name.removesuffix(HISTORY)) for name in names)
        return tuple(one for one in found if one is not None)

    def images(self, product: str, label: Label) -> tuple[Path, ...]:
        """Files of this machine with the images whose label this is. Raises StoreError."""
        found = [one for one in self.all(product) if one.label == label]
        return tuple(self._local_image(product, one) for one in found)

    def _local_image(self, product: str, one: Confirmed) -> Path:
        """The image as a file of this machine. Raises StoreError, DigestMismatch."""
        place, what = self._image_path(product, one), f"confirmed image {one.sha256}"
        if isinstance(place, Path):
            return place
        with paths.forgetting_damage(place, error=DigestMismatch):
            check_digest(what, paths.read_fixed(place, what), one.sha256)
        return paths.local_file(place, what)

    def forget(self, product: str, images: Iterable[Confirmed]) -> None:
        """Remove images and what was said of them; the audit keeps that they were there. Raises StoreUnusable."""
        for one in images:
            paths.remove(self._image_path(product, one))
            paths.remove(self._history_path(product, one.sha256))

    def _folder(self, product: str) -> Place:
        return self.state.root / check_product(product) / "confirmed"

    def _image_path(self, product: str, one: Confirmed) -> Place:
        return self._folder(product) / one.label / f"{one.sha256}{one.suffix}"

    def _history_path(self, product: str, sha256: str) -> Place:
        return self._folder(product) / "history" / f"{sha256}{HISTORY}"
