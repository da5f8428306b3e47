"""Who takes part in the speed bench: goodpart in each of its forms, and every peer that was exported."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.store.state import State
from app.store.store import Store
from peers.run_goodpart import FORMS
from peers.timing import BATCHES, SIZE_PX

HERE = Path(__file__).parent.resolve()
PEERS_PYTHON = HERE / ".venv/bin/python"
PEERS_MODELS = HERE / ".models"
# Which program beside this file runs a form of theirs.
PROGRAMS = {
    "torch": "peers.run_torch",
    "onnx": "peers.run_onnx",
    "openvino": "peers.run_openvino",
    "openvino_int8": "peers.run_openvino",
}
GOODPART = "goodpart"


@dataclass(frozen=True)
class Candidate:
    """Something to judge with: a name and a form, and the module that runs it. ``folder`` has one a batch size."""

    name: str
    form: str
    python: Path
    program: str
    folder: Path

    def list_deployed(self, batch: int) -> Path:
        """Return the files that a machine needs to inspect such batches."""
        return self.folder / str(batch)

    def size_mb(self, batch: int) -> float:
        """How much they take on disk."""
        files = (path for path in self.list_deployed(batch).rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) / 1e6


def goodparts(store: Path, product: str, folder: Path) -> list[Candidate]:
    """Every form of the active version, float32 first; what is deployed goes into the folder."""
    current = State(store / "state").read_current(product)
    if current is None:
        sys.exit(f"product {product} has no active version in {store}")
    bundle = Store(store).load_bundle(product, current.version)
    if (bundle.manifest.input.height, bundle.manifest.input.width) != (SIZE_PX, SIZE_PX):
        sys.exit(f"{product} is not judged at {SIZE_PX} x {SIZE_PX} pixels")
    for name, form in FORMS.items():
        for batch in BATCHES:
            place = folder / name / str(batch)
            place.mkdir(parents=True)
            form.lay(bundle, place)
    return [Candidate(GOODPART, name, Path(sys.executable), "peers.run_goodpart", folder / name) for name in FORMS]


def peers() -> list[Candidate]:
    """Every form of every peer that was exported. Exits where the peers have not been made."""
    if not PEERS_PYTHON.exists() or not PEERS_MODELS.exists():
        sys.exit("the peers are not there: make speed makes them")
    return [
        Candidate(folder.parent.name, folder.name, PEERS_PYTHON, PROGRAMS[folder.name], folder)
        for folder in sorted(PEERS_MODELS.glob("*/*"))
        if folder.name in PROGRAMS
    ]


def select(candidates: Sequence[Candidate], words: Sequence[str]) -> list[Candidate]:
    """Return the candidates named by the words, or all; always the first, which is the reference."""
    first, *others = candidates
    return [first, *(one for one in others if not words or {one.name, one.form} & set(words))]
