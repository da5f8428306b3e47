"""A product to try everything with: a machined part drawn from a seed, good and with graded defects.

The folder has MVTec layout; beside it DEFECTS says of each defective image how plain its defect is.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageFilter

from training.demo.sample_part import (
    BOLTS,
    CUTS,
    DOWELS,
    OIL_HOLE,
    OUTER_RADIUS,
    SLOT,
    Array,
    Cut,
    Picture,
    Places,
    Surface,
    blurred,
    developed,
    exposed,
    is_clear,
    machined,
    next_shot,
    noisy,
    places_of,
    ramp,
)
from training.errors import TrainingError
from training.evaluation.synthetic import as_png

NUM_TRAIN, NUM_TEST_GOOD = 100, 40
KINDS: Final = ("scratch", "dent", "missing_feature", "foreign_particle")
# From plain to barely visible; each kind has so many images of each.
CONTRASTS, NUM_EACH = (1.0, 0.6, 0.35, 0.2, 0.1), 3
NUM_IMAGES: Final = NUM_TRAIN + NUM_TEST_GOOD + len(KINDS) * len(CONTRASTS) * NUM_EACH
DEFECTS: Final = "defects.json"

# A pixel is marked where the defect changes it by this share of the most that it changes any, within these grey levels.
MARKED_SHARE, FEWEST_LEVELS, MOST_LEVELS = 0.15, 1.5, 5.0
GAP_PX: Final = 5

SCRATCH_SLOPE, DENT_SLOPE = 0.65, 0.40
BLIND_DEPTH: Final = 15.0


class FolderNotEmpty(TrainingError):
    """A folder to write into that already holds something, or is a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} already exists and is not an empty folder; name a new one")


@dataclass(frozen=True)
class Item:
    """An image of the set: where it goes, what is wrong, how plainly (0 to 1), and its number, which draws it."""

    path: str
    kind: str
    contrast: float
    number: int

    @property
    def mask_path(self) -> str:
        """Where its mask goes."""
        return f"ground_truth/{self.kind}/{Path(self.path).stem}_mask.png"


@dataclass(frozen=True)
class Drawn:
    """A picture, 256 x 256 x RGB, and its mask, 256 x 256: 255 where the defect changes it, else 0."""

    picture: Picture
    mask: Picture


def write_sample_data(folder: Path, *, seed: int, on_image: Callable[[int], None]) -> None:
    """Make a folder of NUM_IMAGES images appear, whole or not at all; ``on_image(1)`` is called after each.

    The same seed gives the same bytes. Raises FolderNotEmpty.
    """
    write_items(folder, planned(), seed=seed, on_image=on_image)


def write_items(folder: Path, items: Sequence[Item], *, seed: int, on_image: Callable[[int], None]) -> None:
    """Make a folder of these images appear, as ``write_sample_data`` does."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderNotEmpty(folder)
    beside = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        for item in items:
            write_item(beside, item, seed=seed)
            on_image(1)
        (beside / DEFECTS).write_text(listed(items), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_item(folder: Path, item: Item, *, seed: int) -> None:
    """Draw an image into the folder, with its mask if it is defective."""
    drawn = draw(item, seed=seed)
    write_picture(folder / item.path, drawn.picture)
    if item.kind != "good":
        write_picture(folder / item.mask_path, drawn.mask)


def write_picture(path: Path, values: Picture) -> None:
    """As a PNG, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_png(Pillow.fromarray(values)))


def listed(items: Sequence[Item]) -> str:
    """The defective images with their kind and contrast, as JSON."""
    rows = [{"path": item.path, "kind": item.kind, "contrast": item.contrast} for item in items if item.kind != "good"]
    return json.dumps(rows, indent=1) + "\n"


def planned() -> tuple[Item, ...]:
    """Every image of the set, not yet drawn."""
    graded = [contrast for contrast in CONTRASTS for _ in range(NUM_EACH)]
    groups = (
        ("train/good", "good", [0.0] * NUM_TRAIN),
        ("test/good", "good", [0.0] * NUM_TEST_GOOD),
        *((f"test/{kind}", kind, graded) for kind in KINDS),
    )
    rows = [
        (f"{folder}/{index:03}.png", kind, contrast)
        for folder, kind, contrasts in groups
        for index, contrast in enumerate(contrasts)
    ]
    return tuple(Item(*row, number) for number, row in enumerate(rows))


def draw(item: Item, *, seed: int) -> Drawn:
    """Draw an image; where items differ only in kind and contrast, the part and the shot are the same."""
    shooting, noise = (np.random.default_rng((seed, item.number, stream)) for stream in (0, 1))
    shot = next_shot(shooting)
    places = places_of(shot)
    good = seen = exposed(surface_of(replace(item, kind="good"), places, seed=seed), places, shot)
    if item.kind != "good":
        seen = exposed(surface_of(item, places, seed=seed), places, shot)
    return Drawn(developed(noisy(seen, noise)), marked(good, seen))


def surface_of(item: Item, places: Places, *, seed: int) -> Surface:
    """The part as it was machined, and what befell it since."""
    machining, flawing = (np.random.default_rng((seed, item.number, stream)) for stream in (2, 3))
    cuts = cuts_left(item.contrast, flawing) if item.kind == "missing_feature" else CUTS
    surface = machined(places, cuts=cuts, generator=machining)
    return FLAWS[item.kind](surface, places, item, flawing) if item.kind in FLAWS else surface


def marked(good: Array, seen: Array) -> Picture:
    """The mask of what is notably different in what the camera sees, noise aside, with its gaps closed."""
    change = np.abs(developed(seen).astype(np.float32) - developed(good)).max(axis=2)
    least = np.clip(MARKED_SHARE * change.max(), FEWEST_LEVELS, MOST_LEVELS)
    mask = Pillow.fromarray(np.where(blurred(change, reach_px=1) > least, 255, 0).astype(np.uint8))
    return np.asarray(mask.filter(ImageFilter.MaxFilter(GAP_PX)).filter(ImageFilter.MinFilter(GAP_PX)))


def cuts_left(contrast: float, generator: np.random.Generator) -> tuple[Cut, ...]:
    """The cuts of a part on which one was forgotten or not finished: the lower the contrast, the smaller it is."""
    bolt, dowel = BOLTS[generator.integers(len(BOLTS))], DOWELS[generator.integers(len(DOWELS))]
    shallow = replace(dowel, depth=BLIND_DEPTH)
    graded = ((bolt, ()), (SLOT, ()), (dowel, ()), (OIL_HOLE, ()), (dowel, (shallow,)))
    wrong, instead = dict(zip(CONTRASTS, graded, strict=True))[contrast]
    return (*(cut for cut in CUTS if cut != wrong), *instead)


def scratched(surface: Surface, places: Places, item: Item, generator: np.random.Generator) -> Surface:
    """A groove that bends a little and fades at its ends, with the burr that it threw up on either side."""
    path = wandering(spot(generator, clearance=3), length=22 + 50 * item.contrast, bend=0.07, generator=generator)
    distance, along = distance_along(path, places)
    width = 0.5 + 0.25 * item.contrast
    bite = np.sqrt(np.clip(np.sin(np.pi * along), 0, 1)) * ramp(surface.height, -1, -0.3)
    groove = np.exp(-((distance / width) ** 2)) - 0.4 * np.exp(-(((distance - 2 * width) / width) ** 2))
    depth = SCRATCH_SLOPE * item.contrast**0.7 * width
    torn = item.contrast * bite * np.exp(-((distance / width) ** 2))
    return replace(surface, height=surface.height - depth * bite * groove, gloss=surface.gloss * (1 - 0.85 * torn))


def dented(surface: Surface, places: Places, item: Item, generator: np.random.Generator) -> Surface:
    """A smooth hollow with a low rim, where something hit the face; the turning marks run on through it."""
    width = 2.4 + 3.2 * item.contrast
    x, y = spot(generator, clearance=2 * width)
    oblong, angle = generator.uniform(0.75, 1.3), generator.uniform(0, np.pi)
    along = (places.x - x) * math.cos(angle) + (places.y - y) * math.sin(angle)
    across = (places.y - y) * math.cos(angle) - (places.x - x) * math.sin(angle)
    distance = np.sqrt((along * oblong) ** 2 + (across / oblong) ** 2) / width
    hollow = np.exp(-(distance**2) / 2) - 0.15 * np.exp(-((distance - 2.1) ** 2) / 0.3)
    depth = DENT_SLOPE * item.contrast**0.7 * width
    return replace(surface, height=surface.height - (depth * hollow).astype(np.float32))


def littered(surface: Surface, places: Places, item: Item, generator: np.random.Generator) -> Surface:
    """A grain of dirt, a fibre or a curl of swarf that lies on the face."""
    lay = (grain, fibre, swarf)[item.number % 3]
    return lay(surface, places, item.contrast, generator)


def grain(surface: Surface, places: Places, contrast: float, generator: np.random.Generator) -> Surface:
    """A grain of dark rubber or soot, of no regular shape."""
    size = 1.2 + 3.8 * contrast
    x, y = spot(generator, clearance=size)
    angle = np.arctan2(places.y - y, places.x - x)
    edge = np.full_like(angle, size)
    for wave in range(2, 7):
        swing, phase = generator.normal(0, 0.22 * size / wave**0.5), generator.uniform(0, 2 * np.pi)
        edge += swing * np.cos(wave * angle + phase)
    inside = edge - np.sqrt((places.x - x) ** 2 + (places.y - y) ** 2)
    return covered(surface, inside, thickness=0.8 * size * contrast, matter=(0.04, 0.03), opacity=contrast)


def fibre(surface: Surface, places: Places, contrast: float, generator: np.random.Generator) -> Surface:
    """A textile fibre, black or grey, that lies in a bow."""
    path = wandering(spot(generator, clearance=3), length=12 + 34 * contrast, bend=0.16, generator=generator)
    distance, _ = distance_along(path, places)
    tone = float(generator.choice((0.02, 0.25)))
    inside = 0.4 + 0.4 * contrast - distance
    return covered(surface, inside, thickness=0.2 + 1.3 * contrast, matter=(tone, 0.0), opacity=contrast)


def swarf(surface: Surface, places: Places, contrast: float, generator: np.random.Generator) -> Surface:
    """A curl of cut metal, blue from heat, thinner towards its end."""
    path = wandering(spot(generator, clearance=5), length=5 + 22 * contrast, bend=0.35, generator=generator)
    distance, along = distance_along(path, places)
    inside = (0.6 + 1.2 * contrast) * np.sqrt(np.clip(1.2 - along, 0, 1)) - distance
    return covered(surface, inside, thickness=0.2 + 2.8 * contrast, matter=(0.05, 0.45), opacity=contrast)


def covered(
    surface: Surface, inside: Array, *, thickness: float, matter: tuple[float, float], opacity: float
) -> Surface:
    """With something on it, ``inside`` pixels from its edge, of this albedo and gloss; 0 < ``opacity`` <= 1."""
    cover = ramp(inside, -0.4, 0.4) * np.float32(0.15 + 0.85 * opacity**0.7)
    round_top = np.sqrt(np.clip(inside, 0, None)) * np.float32(thickness / max(1e-3, math.sqrt(float(inside.max()))))
    albedo, gloss = matter
    return Surface(
        height=surface.height + cover * round_top,
        albedo=surface.albedo + cover * (albedo - surface.albedo),
        gloss=surface.gloss + cover * (gloss - surface.gloss),
        groove=surface.groove * (1 - cover),
    )


Flaw = Callable[[Surface, Places, Item, np.random.Generator], Surface]
FLAWS: Final[dict[str, Flaw]] = {"scratch": scratched, "dent": dented, "foreign_particle": littered}


def spot(generator: np.random.Generator, *, clearance: float) -> tuple[float, float]:
    """A point of the faces, this far from every edge and cut."""
    while True:
        x, y = generator.uniform(-OUTER_RADIUS, OUTER_RADIUS, 2).tolist()
        if is_clear(x, y, clearance=clearance):
            return x, y


def wandering(
    start: tuple[float, float], *, length: float, bend: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Points of a smooth path through ``start``, its middle; ``bend`` is about how far each step turns, in radians."""
    num_steps = 16
    turns = bend * (generator.uniform(-1.6, 1.6) + 0.5 * generator.normal(size=num_steps))
    angles = generator.uniform(0, 2 * np.pi) + np.cumsum(turns)
    points = np.cumsum(np.stack((np.cos(angles), np.sin(angles)), axis=1), axis=0) * length / num_steps
    return np.asarray(points - points[num_steps // 2] + start)


def distance_along(path: NDArray[np.float64], places: Places) -> tuple[Array, Array]:
    """How far each point is from a path, in pixels, and where along it is nearest, from 0 to 1."""
    nearest = np.full_like(places.x, np.inf)
    where = np.zeros_like(places.x)
    for index, ((x, y), (end_x, end_y)) in enumerate(pairwise(path.tolist())):
        step_x, step_y = end_x - x, end_y - y
        share = np.clip(((places.x - x) * step_x + (places.y - y) * step_y) / (step_x**2 + step_y**2), 0, 1)
        distance = np.sqrt((places.x - x - share * step_x) ** 2 + (places.y - y - share * step_y) ** 2)
        where = np.where(distance < nearest, (index + share) / (len(path) - 1), where)
        nearest = np.minimum(nearest, distance)
    return nearest, where
