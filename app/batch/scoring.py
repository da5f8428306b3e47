"""Scoring of a shard: one row an image, in order, as a Parquet table."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.batch.shards import Shard
from app.bootstrap import load_version
from app.errors import ImageError
from app.imaging.input_check import Guard
from app.inference.version import Version
from app.inspection.pipeline import Inspection, inspect
from app.settings import Settings
from model.bundle import sha256_hex

SCALE = pa.struct([("stride", pa.int32()), ("score", pa.float64()), ("share", pa.float64())])
REGION = pa.struct(
    [
        *((name, pa.int32()) for name in ("x", "y", "width", "height", "area_px")),
        ("peak", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("p_value", pa.float64()),
        ("scales", pa.list_(SCALE)),
        ("regions", pa.list_(REGION)),
        ("warnings", pa.list_(pa.string())),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Scorer:
    """A version, and the number of threads that inspect in parallel, one image each."""

    version: Version
    num_threads: int
    max_pixels: int
    guard: Guard

    @classmethod
    def from_settings(cls, settings: Settings, product: str, name: str | None) -> "Scorer":
        """Load a version by the settings. Raises GoodpartError."""
        # On a CPU, many images in parallel are faster than many threads on one image.
        alone = settings.model_copy(update={"threads": 1})
        version = load_version(alone, product, name)
        return cls(version, settings.threads, settings.max_pixels, settings.input_guard)

    def score_shard(self, source: Path, shard: Shard) -> pa.Table:
        """Return the shard's rows. Raises ModelError, and OSError where the images can't be read."""
        with ThreadPoolExecutor(self.num_threads) as pool:
            rows = list(pool.map(lambda path: self.score_image(source, path), shard.paths))
        return pa.Table.from_pylist(rows, SCHEMA)

    def score_image(self, source: Path, path: str) -> dict[str, Any]:
        """Return the row of one image, or its error."""
        readable = path.encode("utf-8", "replace").decode()
        try:
            data = (source / path).read_bytes()
        except PermissionError as error:  # any other error ends the run, such as a network share that is not available
            return {"path": readable, "error": error.strerror}
        try:
            inspection = inspect(data, self.version, max_pixels=self.max_pixels, guard=self.guard)
        except ImageError as error:
            return {"path": readable, "sha256": sha256_hex(data), "error": str(error)}
        return {"path": readable, **to_row(inspection)}


def to_row(inspection: Inspection) -> dict[str, Any]:
    """Return the cells of an inspection; a repeated run gives the same."""
    return {
        "sha256": inspection.image.sha256,
        "width": inspection.image.width,
        "height": inspection.image.height,
        "verdict": inspection.verdict,
        "score": inspection.score,
        "threshold": inspection.threshold,
        "p_value": inspection.p_value,
        "scales": [asdict(scale) for scale in inspection.scales],
        "regions": [{name: getattr(region, name) for name in REGION.names} for region in inspection.regions],
        "warnings": list(inspection.warnings),
        "error": None,
    }
