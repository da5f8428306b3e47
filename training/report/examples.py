"""Example images for the report, beside their heat-maps: the oddest good parts and the weakest defects."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as Pillow

from app.imaging.decode import load_image
from app.inference.version import Version
from app.inspection.pipeline import InspectOptions, inspect
from training.data.images import ImageFile

NUM_SHOWN = 6
SIDE_PX, JPEG_QUALITY = 200, 75


@dataclass(frozen=True)
class ExampleImage:
    """A part: its name, its score, and pictures as JPEG, base64."""

    name: str
    score: float
    verdict: str
    part: str
    heatmap: str


def render_examples(version: Version, images: Sequence[ImageFile], *, max_pixels: int) -> list[ExampleImage]:
    """Inspect each image again, with its heat-map. Raises ImageError."""
    return [render_example(version, image, max_pixels=max_pixels) for image in images]


def render_example(version: Version, image: ImageFile, *, max_pixels: int) -> ExampleImage:
    """Inspect one image."""
    data = image.read_bytes()
    inspection = inspect(data, version, max_pixels=max_pixels, options=InspectOptions(heatmap="overlay"))
    heatmap = inspection.heatmap
    overlay = load_image(heatmap.data, max_pixels=max_pixels) if heatmap else Pillow.new("RGB", (1, 1))
    return ExampleImage(
        name=image.path.name,
        score=inspection.score,
        verdict=inspection.verdict,
        part=to_thumbnail(load_image(data, max_pixels=max_pixels)),
        heatmap=to_thumbnail(overlay),
    )


def to_thumbnail(picture: Pillow.Image) -> str:
    """Return a thumbnail as JPEG in base64."""
    if picture.mode.startswith("I"):  # 12 bits in 16 must not be black
        brightest = max(1, picture.getextrema()[1])
        picture = picture.point(lambda value: value * 255 / brightest).convert("L")
    small = picture.convert("RGB")
    small.thumbnail((SIDE_PX, SIDE_PX), Pillow.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
