"""Write every peer in every form that anomalib offers, once a batch size, into ``.models`` beside this file.

    cd bench && peers/.venv/bin/python -m peers.export

Shapes are fixed, which is the fastest that a runtime can get; with a free batch size PatchCore does not export.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from peers.networks import PEERS, new_peer
from peers.timing import BATCHES, SIZE_PX

from anomalib.deploy import CompressionType  # isort: skip  # needs the operators
from anomalib.models.components import AnomalibModule  # isort: skip

HERE = Path(__file__).parent
MODELS = HERE / ".models"
DONE = "done"
OPSET = 18  # below it the exporter has to convert, and fails
NUM_CALIBRATING = 16


@dataclass(frozen=True)
class Export:
    """A model and where one form of it goes."""

    model: AnomalibModule
    folder: Path
    batch: int

    def onnx_settings(self) -> dict[str, object]:
        """The batch size is fixed."""
        return {"opset_version": OPSET, "dynamic_shapes": ({0: self.batch},)}

    def to_torch(self) -> None:
        """The pickle that ``TorchInferencer`` takes."""
        self.model.to_torch(self.folder)

    def to_onnx(self) -> None:
        """float32."""
        self.model.to_onnx(self.folder, input_size=(SIZE_PX, SIZE_PX), **self.onnx_settings())

    def to_openvino(self) -> None:
        """float32; on a processor float16 is only a way to store weights."""
        self.model.to_openvino(self.folder, input_size=(SIZE_PX, SIZE_PX), onnx_kwargs=self.onnx_settings())

    def to_openvino_int8(self) -> None:
        """Weights and activations quantised after training."""
        self.model.to_openvino(
            self.folder,
            input_size=(SIZE_PX, SIZE_PX),
            onnx_kwargs=self.onnx_settings(),
            compression_type=CompressionType.INT8_PTQ,
            datamodule=Noise(self.batch),
        )


FORMS: dict[str, Callable[[Export], None]] = {
    "torch": Export.to_torch,
    "onnx": Export.to_onnx,
    "openvino": Export.to_openvino,
    "openvino_int8": Export.to_openvino_int8,
}


@dataclass
class Noise:
    """As much of a data module as quantising asks for. What is shown does not change how long a graph takes."""

    train_batch_size: int

    def setup(self, stage: str) -> None:
        """There is nothing to prepare."""

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Images of noise."""
        images = [{"image": torch.rand(3, SIZE_PX, SIZE_PX)} for _ in range(NUM_CALIBRATING)]
        return DataLoader(images, batch_size=self.train_batch_size)


def main() -> None:
    """Write what is not there yet, or was written by another version of this code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="peers")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of exporters, about themselves
    for name in given.only:
        for batch in BATCHES:
            write(name, batch)


def write(name: str, batch: int) -> None:
    """Every form of one peer at one batch size."""
    model = new_peer(name)
    for form, to_form in FORMS.items():
        folder = MODELS / name / form / str(batch)
        if is_current(folder / DONE):
            continue
        print(f"{name}, batch {batch}: {form}", flush=True)
        to_form(Export(model, folder, batch))
        (folder / DONE).touch()


def is_current(done: Path) -> bool:
    """Whether a form was written whole, and since the code last changed."""
    changed = max((HERE / name).stat().st_mtime for name in ("networks.py", "export.py"))
    return done.exists() and done.stat().st_mtime >= changed


if __name__ == "__main__":
    main()
