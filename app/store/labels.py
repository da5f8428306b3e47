"""Labelled images, with the author and time of each label; used by the next training and by the gate.

``<state>/<product>/confirmed/{ok,ng}/<sha256>.<suffix>`` are the original bytes, ``confirmed/history/<sha256>.json``
their labels, of which the last one counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.store import paths
from app.store.errors import Conflict, DamagedState
from app.store.paths import StoragePath
from app.store.state import Decision, State
from model.bundle import Sha256, check_digest, check_product, sha256_hex

Label = Literal["ok", "ng"]
LABELS: tuple[Label, ...] = get_args(Label)
HISTORY, HISTORY_PATTERN = ".json", r"[0-9a-f]{64}\.json"


class LabelDecision(Decision):
    """One label; ``part_id`` and ``version`` as the author knew them."""

    label: Label
    part_id: str = ""
    version: str | None = None


class LabelledImage(BaseModel):
    """An image with all of its labels, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    suffix: str
    history: tuple[LabelDecision, ...] = Field(min_length=1)

    @property
    def label(self) -> Label:
        """The current label."""
        return self.history[-1].label

    @property
    def at(self) -> datetime:
        """The time of the last label."""
        return self.history[-1].at


@dataclass(frozen=True)
class LabelStore:
    """The labelled images of every product."""

    state: State

    def add(self, product: str, data: bytes, *, suffix: str, decision: LabelDecision) -> LabelledImage:
        """Store an image under a label, or relabel a stored one.

        Raises StoreUnusable, DamagedState, and Conflict where it is labelled at the same moment.
        """
        sha256 = sha256_hex(data)
        path = self._history_path(product, sha256)
        before, tag = paths.read_with_etag(path, lambda: self.read(product, sha256))
        history = (*before.history, decision) if before else (decision,)
        now = LabelledImage(sha256=sha256, suffix=before.suffix if before else suffix, history=history)
        change = {"from": before.label if before else None, "to": decision.label, "sha256": sha256}
        paths.replace(self._image_path(product, now), data)
        self.state.write_audit(product, "feedback", decision, change)
        if not paths.compare_and_swap(path, now.model_dump_json(indent=1).encode() + b"\n", instead_of=tag):
            self._undo(product, now, decision, change)
            raise Conflict(product)
        if before is not None and before.label != now.label:
            paths.remove(self._image_path(product, before))
        return now

    def _undo(self, product: str, mine: LabelledImage, decision: LabelDecision, change: Mapping[str, object]) -> None:
        """Undo the second of two labels at the same moment: the image stays only where the first put it."""
        self.state.write_audit(product, "feedback not done", decision, change)
        theirs = self.read(product, mine.sha256)
        if theirs is None or self._image_path(product, theirs) != self._image_path(product, mine):
            paths.remove(self._image_path(product, mine))

    def read(self, product: str, sha256: str) -> LabelledImage | None:
        """Return the labels of an image, or None. Raises StoreUnusable, DamagedState."""
        path = self._history_path(product, sha256)
        data = paths.read(path)
        if data is None:
            return None
        try:
            return LabelledImage.model_validate_json(data)
        except ValidationError as error:
            raise DamagedState(path, error.errors()[0]["msg"]) from None

    def read_all(self, product: str) -> tuple[LabelledImage, ...]:
        """Return all labelled images, by digest. Raises StoreUnusable, DamagedState."""
        names = paths.list_files(self._folder(product) / "history", HISTORY_PATTERN)
        found = (self.read(product, name.removesuffix(HISTORY)) for name in names)
        return tuple(one for one in found if one is not None)

    def image_paths(self, product: str, label: Label) -> tuple[Path, ...]:
        """Return local files with the images of this label. Raises StoreError."""
        found = [one for one in self.read_all(product) if one.label == label]
        return tuple(self._ensure_local(product, one) for one in found)

    def _ensure_local(self, product: str, one: LabelledImage) -> Path:
        """Return the image as a local file. Raises StoreError, BundleError."""
        path, what = self._image_path(product, one), f"confirmed image {one.sha256}"
        if isinstance(path, Path):
            return path
        with paths.drop_damaged_copies(path):
            check_digest(what, paths.read_immutable(path, what), one.sha256)
        return paths.make_local_file(path, what)

    def remove(self, product: str, images: Iterable[LabelledImage]) -> None:
        """Remove images and their labels; the audit keeps a record. Raises StoreUnusable."""
        for one in images:
            paths.remove(self._image_path(product, one))
            paths.remove(self._history_path(product, one.sha256))

    def _folder(self, product: str) -> StoragePath:
        return self.state.root / check_product(product) / "confirmed"

    def _image_path(self, product: str, one: LabelledImage) -> StoragePath:
        return self._folder(product) / one.label / f"{one.sha256}{one.suffix}"

    def _history_path(self, product: str, sha256: str) -> StoragePath:
        return self._folder(product) / "history" / f"{sha256}{HISTORY}"
