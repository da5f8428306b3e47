"""A product to try: images of a machined part, rendered from a seed, good and with graded defects.

The folder has MVTec layout; ``defects.json`` lists the contrast of each defect.
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

from app.errors import CommandError
from training.demo.sample_part import (
    BOLTS,
    CUTS,
    DOWELS,
    OIL_HOLE,
    OUTER_RADIUS,
    SLOT,
    Array,
    Cut,
    PartCoordinates,
    Picture,
    Surface,
    add_noise,
    blur,
    develop,
    draw_shot,
    expose,
    is_clear,
    machine_part,
    make_coordinates,
    ramp,
)
from training.evaluation.synthetic import to_png

NUM_TRAIN, NUM_TEST_GOOD = 100, 40
KINDS: Final = ("scratch", "dent", "missing_feature", "foreign_particle")
# From plain to barely visible; each kind has so many images of each.
CONTRASTS, NUM_EACH = (1.0, 0.6, 0.35, 0.2, 0.1), 3
NUM_IMAGES: Final = NUM_TRAIN + NUM_TEST_GOOD + len(KINDS) * len(CONTRASTS) * NUM_EACH
DEFECTS: Final = "defects.json"

# A pixel is marked where the defect changes it by this share of the most that it changes any, within these grey levels.
MARKED_SHARE, MIN_LEVELS, MAX_LEVELS = 0.15, 1.5, 5.0
GAP_PX: Final = 5

SCRATCH_SLOPE, DENT_SLOPE = 0.65, 0.40
BLIND_DEPTH: Final = 15.0


@dataclass(frozen=True)
class SampleItem:
    """An image of the set: path, kind and contrast (0 to 1) of its defect, and the number that seeds it."""

    path: str
    kind: str
    contrast: float
    number: int

    @property
    def mask_path(self) -> str:
        """The path of its mask."""
        return f"ground_truth/{self.kind}/{Path(self.path).stem}_mask.png"


@dataclass(frozen=True)
class RenderedImage:
    """A picture, 256 x 256 x RGB, and its mask, 256 x 256: 255 where the defect changes it, else 0."""

    picture: Picture
    mask: Picture


def write_sample_data(folder: Path, *, seed: int, on_image: Callable[[int], None]) -> None:
    """Create a folder of NUM_IMAGES images, whole or not at all; ``on_image(1)`` is called after each.

    The same seed gives the same bytes. Raises CommandError.
    """
    write_items(folder, plan_items(), seed=seed, on_image=on_image)


def write_items(folder: Path, items: Sequence[SampleItem], *, seed: int, on_image: Callable[[int], None]) -> None:
    """Create a folder of these images, as ``write_sample_data`` does."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} already exists and is not an empty folder; name a new one")
    beside = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        for item in items:
            write_item(beside, item, seed=seed)
            on_image(1)
        (beside / DEFECTS).write_text(to_defect_list(items), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_item(folder: Path, item: SampleItem, *, seed: int) -> None:
    """Render an image into the folder, with its mask if it is defective."""
    drawn = render(item, seed=seed)
    write_picture(folder / item.path, drawn.picture)
    if item.kind != "good":
        write_picture(folder / item.mask_path, drawn.mask)


def write_picture(path: Path, values: Picture) -> None:
    """Write a PNG; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_png(Pillow.fromarray(values)))


def to_defect_list(items: Sequence[SampleItem]) -> str:
    """Return the defective images with their kind and contrast, as JSON."""
    rows = [{"path": item.path, "kind": item.kind, "contrast": item.contrast} for item in items if item.kind != "good"]
    return json.dumps(rows, indent=1) + "\n"


def plan_items() -> tuple[SampleItem, ...]:
    """Return every image of the set, not yet rendered."""
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
    return tuple(SampleItem(*row, number) for number, row in enumerate(rows))


def render(item: SampleItem, *, seed: int) -> RenderedImage:
    """Render an image; items that differ only in kind and contrast show the same part and shot."""
    shooting, noise = (np.random.default_rng((seed, item.number, stream)) for stream in (0, 1))
    shot = draw_shot(shooting)
    coordinates = make_coordinates(shot)
    good = seen = expose(make_surface(replace(item, kind="good"), coordinates, seed=seed), coordinates, shot)
    if item.kind != "good":
        seen = expose(make_surface(item, coordinates, seed=seed), coordinates, shot)
    return RenderedImage(develop(add_noise(seen, noise)), compute_mask(good, seen))


def make_surface(item: SampleItem, coordinates: PartCoordinates, *, seed: int) -> Surface:
    """Return the machined part with its defect."""
    machining, flawing = (np.random.default_rng((seed, item.number, stream)) for stream in (2, 3))
    cuts = choose_cuts(item.contrast, flawing) if item.kind == "missing_feature" else CUTS
    surface = machine_part(coordinates, cuts=cuts, generator=machining)
    return FLAWS[item.kind](surface, coordinates, item, flawing) if item.kind in FLAWS else surface


def compute_mask(good: Array, seen: Array) -> Picture:
    """Return the mask of visible differences, without noise and with small gaps closed."""
    change = np.abs(develop(seen).astype(np.float32) - develop(good)).max(axis=2)
    least = np.clip(MARKED_SHARE * change.max(), MIN_LEVELS, MAX_LEVELS)
    mask = Pillow.fromarray(np.where(blur(change, reach_px=1) > least, 255, 0).astype(np.uint8))
    return np.asarray(mask.filter(ImageFilter.MaxFilter(GAP_PX)).filter(ImageFilter.MinFilter(GAP_PX)))


def choose_cuts(contrast: float, generator: np.random.Generator) -> tuple[Cut, ...]:
    """Return the cuts of a part with one missing or unfinished: the lower the contrast, the smaller it is."""
    bolt, dowel = BOLTS[generator.integers(len(BOLTS))], DOWELS[generator.integers(len(DOWELS))]
    shallow = replace(dowel, depth=BLIND_DEPTH)
    graded = ((bolt, ()), (SLOT, ()), (dowel, ()), (OIL_HOLE, ()), (dowel, (shallow,)))
    wrong, instead = dict(zip(CONTRASTS, graded, strict=True))[contrast]
    return (*(cut for cut in CUTS if cut != wrong), *instead)


def add_scratch(
    surface: Surface, coordinates: PartCoordinates, item: SampleItem, generator: np.random.Generator
) -> Surface:
    """Add a groove that bends a little and fades at its ends, with a burr on either side."""
    path = make_path(
        choose_spot(generator, clearance=3), length=22 + 50 * item.contrast, bend=0.07, generator=generator
    )
    distance, along = distance_to_path(path, coordinates)
    width = 0.5 + 0.25 * item.contrast
    bite = np.sqrt(np.clip(np.sin(np.pi * along), 0, 1)) * ramp(surface.height, -1, -0.3)
    groove = np.exp(-((distance / width) ** 2)) - 0.4 * np.exp(-(((distance - 2 * width) / width) ** 2))
    depth = SCRATCH_SLOPE * item.contrast**0.7 * width
    torn = item.contrast * bite * np.exp(-((distance / width) ** 2))
    return replace(surface, height=surface.height - depth * bite * groove, gloss=surface.gloss * (1 - 0.85 * torn))


def add_dent(
    surface: Surface, coordinates: PartCoordinates, item: SampleItem, generator: np.random.Generator
) -> Surface:
    """Add a smooth hollow with a low rim; the turning marks continue through it."""
    width = 2.4 + 3.2 * item.contrast
    x, y = choose_spot(generator, clearance=2 * width)
    oblong, angle = generator.uniform(0.75, 1.3), generator.uniform(0, np.pi)
    along = (coordinates.x - x) * math.cos(angle) + (coordinates.y - y) * math.sin(angle)
    across = (coordinates.y - y) * math.cos(angle) - (coordinates.x - x) * math.sin(angle)
    distance = np.sqrt((along * oblong) ** 2 + (across / oblong) ** 2) / width
    hollow = np.exp(-(distance**2) / 2) - 0.15 * np.exp(-((distance - 2.1) ** 2) / 0.3)
    depth = DENT_SLOPE * item.contrast**0.7 * width
    return replace(surface, height=surface.height - (depth * hollow).astype(np.float32))


def add_particle(
    surface: Surface, coordinates: PartCoordinates, item: SampleItem, generator: np.random.Generator
) -> Surface:
    """Add a grain of dirt, a fibre or a curl of swarf."""
    lay = (add_grain, add_fibre, add_swarf)[item.number % 3]
    return lay(surface, coordinates, item.contrast, generator)


def add_grain(
    surface: Surface, coordinates: PartCoordinates, contrast: float, generator: np.random.Generator
) -> Surface:
    """Add an irregular grain of dark rubber or soot."""
    size = 1.2 + 3.8 * contrast
    x, y = choose_spot(generator, clearance=size)
    angle = np.arctan2(coordinates.y - y, coordinates.x - x)
    edge = np.full_like(angle, size)
    for wave in range(2, 7):
        swing, phase = generator.normal(0, 0.22 * size / wave**0.5), generator.uniform(0, 2 * np.pi)
        edge += swing * np.cos(wave * angle + phase)
    inside = edge - np.sqrt((coordinates.x - x) ** 2 + (coordinates.y - y) ** 2)
    return cover(surface, inside, thickness=0.8 * size * contrast, matter=(0.04, 0.03), opacity=contrast)


def add_fibre(
    surface: Surface, coordinates: PartCoordinates, contrast: float, generator: np.random.Generator
) -> Surface:
    """Add a textile fibre, black or grey, in a bow."""
    path = make_path(choose_spot(generator, clearance=3), length=12 + 34 * contrast, bend=0.16, generator=generator)
    distance, _ = distance_to_path(path, coordinates)
    tone = float(generator.choice((0.02, 0.25)))
    inside = 0.4 + 0.4 * contrast - distance
    return cover(surface, inside, thickness=0.2 + 1.3 * contrast, matter=(tone, 0.0), opacity=contrast)


def add_swarf(
    surface: Surface, coordinates: PartCoordinates, contrast: float, generator: np.random.Generator
) -> Surface:
    """Add a curl of cut metal, blue from heat, thinner towards its end."""
    path = make_path(choose_spot(generator, clearance=5), length=5 + 22 * contrast, bend=0.35, generator=generator)
    distance, along = distance_to_path(path, coordinates)
    inside = (0.6 + 1.2 * contrast) * np.sqrt(np.clip(1.2 - along, 0, 1)) - distance
    return cover(surface, inside, thickness=0.2 + 2.8 * contrast, matter=(0.05, 0.45), opacity=contrast)


def cover(surface: Surface, inside: Array, *, thickness: float, matter: tuple[float, float], opacity: float) -> Surface:
    """Cover the surface, ``inside`` pixels from the cover's edge, by this albedo and gloss; 0 < ``opacity`` <= 1."""
    cover = ramp(inside, -0.4, 0.4) * np.float32(0.15 + 0.85 * opacity**0.7)
    round_top = np.sqrt(np.clip(inside, 0, None)) * np.float32(thickness / max(1e-3, math.sqrt(float(inside.max()))))
    albedo, gloss = matter
    return Surface(
        height=surface.height + cover * round_top,
        albedo=surface.albedo + cover * (albedo - surface.albedo),
        gloss=surface.gloss + cover * (gloss - surface.gloss),
        groove=surface.groove * (1 - cover),
    )


Flaw = Callable[[Surface, PartCoordinates, SampleItem, np.random.Generator], Surface]
FLAWS: Final[dict[str, Flaw]] = {"scratch": add_scratch, "dent": add_dent, "foreign_particle": add_particle}


def choose_spot(generator: np.random.Generator, *, clearance: float) -> tuple[float, float]:
    """Return a random point of the faces, ``clearance`` away from every edge and cut."""
    while True:
        x, y = generator.uniform(-OUTER_RADIUS, OUTER_RADIUS, 2).tolist()
        if is_clear(x, y, clearance=clearance):
            return x, y


def make_path(
    start: tuple[float, float], *, length: float, bend: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return points of a smooth random path with ``start`` as its middle; ``bend``: mean turn of a step, in radians."""
    num_steps = 16
    turns = bend * (generator.uniform(-1.6, 1.6) + 0.5 * generator.normal(size=num_steps))
    angles = generator.uniform(0, 2 * np.pi) + np.cumsum(turns)
    points = np.cumsum(np.stack((np.cos(angles), np.sin(angles)), axis=1), axis=0) * length / num_steps
    return np.asarray(points - points[num_steps // 2] + start)


def distance_to_path(path: NDArray[np.float64], coordinates: PartCoordinates) -> tuple[Array, Array]:
    """Return each point's distance to a path, in pixels, and the nearest position along it, from 0 to 1."""
    nearest = np.full_like(coordinates.x, np.inf)
    where = np.zeros_like(coordinates.x)
    for index, ((x, y), (end_x, end_y)) in enumerate(pairwise(path.tolist())):
        step_x, step_y = end_x - x, end_y - y
        share = np.clip(((coordinates.x - x) * step_x + (coordinates.y - y) * step_y) / (step_x**2 + step_y**2), 0, 1)
        distance = np.sqrt((coordinates.x - x - share * step_x) ** 2 + (coordinates.y - y - share * step_y) ** 2)
        where = np.where(distance < nearest, (index + share) / (len(path) - 1), where)
        nearest = np.minimum(nearest, distance)
    return nearest, where
