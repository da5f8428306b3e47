"""Parts worth a look, as pictures beside their heat-maps: the oddest good ones and the weakest defects."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow

from app.imaging.decode import load_upright, open_image
from app.inference.version import Version
from app.inspection.pipeline import InspectOptions, inspect

NUM_SHOWN = 6
SIDE_PX, JPEG_QUALITY = 200, 75


@dataclass(frozen=True)
class Exhibit:
    """A part: its name, its score, and pictures as JPEG, base64."""

    name: str
    score: float
    verdict: str
    part: str
    heatmap: str


def exhibits(version: Version, paths: Sequence[Path], *, max_pixels: int) -> list[Exhibit]:
    """Each image judged once more, with its heat-map. Raises ImageError."""
    return [exhibit(version, path, max_pixels=max_pixels) for path in paths]


def exhibit(version: Version, path: Path, *, max_pixels: int) -> Exhibit:
    """One image."""
    data = path.read_bytes()
    inspection = inspect(data, version, max_pixels=max_pixels, options=InspectOptions(heatmap="overlay"))
    heatmap = inspection.heatmap
    overlay = Pillow.open(io.BytesIO(heatmap.data)) if heatmap else Pillow.new("RGB", (1, 1))
    return Exhibit(
        name=path.name,
        score=inspection.score,
        verdict=inspection.verdict,
        part=as_jpeg(load_upright(open_image(data, max_pixels=max_pixels))),
        heatmap=as_jpeg(overlay),
    )


def as_jpeg(picture: Pillow.Image) -> str:
    """A thumbnail as base64."""
    if picture.mode.startswith("I"):  # 12 bits in 16 must not be black
        brightest = max(1, picture.getextrema()[1])
        picture = picture.point(lambda value: value * 255 / brightest).convert("L")
    small = picture.convert("RGB")
    small.thumbnail((SIDE_PX, SIDE_PX), Pillow.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
