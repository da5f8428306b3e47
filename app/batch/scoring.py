"""A shard judged: a row an image, in order, as a table of Parquet."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.batch.shards import Shard
from app.bootstrap import loaded_version
from app.errors import ImageError
from app.imaging.input_check import Guard
from app.inference.version import Version
from app.inspection.pipeline import Inspection, judge
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
    """Who judges: a version, and as many threads as judge side by side, an image each."""

    version: Version
    num_threads: int
    max_pixels: int
    guard: Guard

    @classmethod
    def of(cls, settings: Settings, product: str, name: str | None) -> "Scorer":
        """By the settings, ready to judge. Raises GoodpartError."""
        # Many images at once keep a CPU busier than many threads at one image.
        alone = settings.model_copy(update={"threads": 1})
        version = loaded_version(alone, product, name)
        return cls(version, settings.threads, settings.max_pixels, settings.input_guard)

    def table(self, source: Path, shard: Shard) -> pa.Table:
        """The shard's rows. Raises ModelError, and OSError where the images can't be reached."""
        with ThreadPoolExecutor(self.num_threads) as pool:
            rows = list(pool.map(lambda path: self.row(source, path), shard.paths))
        return pa.Table.from_pylist(rows, SCHEMA)

    def row(self, source: Path, path: str) -> dict[str, Any]:
        """What is said of one image, or what is wrong with it."""
        readable = path.encode("utf-8", "replace").decode()
        try:
            data = (source / path).read_bytes()
        except PermissionError as error:  # anything else ends the run, a share that is gone say
            return {"path": readable, "error": error.strerror}
        try:
            inspection = judge(data, self.version, max_pixels=self.max_pixels, guard=self.guard)
        except ImageError as error:
            return {"path": readable, "sha256": sha256_hex(data), "error": str(error)}
        return {"path": readable, **told(inspection)}


def told(inspection: Inspection) -> dict[str, Any]:
    """An inspection's cells; nothing that another run would say otherwise."""
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
