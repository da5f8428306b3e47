"""The part of the sample data, as a factory camera sees it: a turned and drilled steel flange on a dark fixture.

A picture is rendered: relief, material, reflected light, camera. Lengths and heights are pixels of the finished
picture, heights above the flange's face; x runs right, y down, and angles from x towards y. Arrays are finer by FINER
each way until the camera averages them. Shares and widths of the light were set by eye.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

Array = NDArray[np.floating]
Picture = NDArray[np.uint8]

SIDE: Final = 256
FINER: Final = 2

OUTER_RADIUS, FACE_RADIUS, HUB_FOOT_RADIUS, HUB_RADIUS = 107.0, 102.2, 53.6, 47.2
THICKNESS, HUB_HEIGHT = 22.0, 5.0
THROUGH: Final = 2 * THICKNESS
# (radius, height) of the turned profile, from the axis to the rim; between the faces falls the hub's wall.
PROFILE: Final = (
    *((0.0, HUB_HEIGHT), (HUB_RADIUS, HUB_HEIGHT), (47.6, 4.9), (50.0, 3.6), (51.0, 1.4), (52.0, 0.4)),
    *((HUB_FOOT_RADIUS, 0.0), (FACE_RADIUS, 0.0), (102.9, -0.2), (105.4, -1.9)),
    *((OUTER_RADIUS, -3.6), (OUTER_RADIUS + 0.3, -THICKNESS)),
)
# The camera stands above the middle, so that of a hole's far end this share of its distance is hidden.
PARALLAX: Final = 0.05
FEED_PX: Final = 2.7
FEED_SLOPE, GROOVE_SLOPE = 0.05, 0.075

MARK: Final = "GP 40-17"
MARK_ANGLE_DEG, MARK_RADIUS, MARK_HEIGHT, MARK_DETAIL = -120.0, 79.0, 7.5, 4

METAL_ALBEDO, FIXTURE_ALBEDO = 0.14, 0.05
# How far, in slopes, metal spreads what it reflects: along the grooves, across them, and where it is rough.
ALONG, ACROSS, ROUGH = 0.12, 0.30, 0.40
SKY_TINT: Final = (0.94, 0.98, 1.0)
SHADOW_STEPS: Final = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0)
SHOT_NOISE, READ_NOISE = 0.9e-4, 1.0e-5


@dataclass(frozen=True)
class Cut:
    """A hole, or a slot along the circle that it lies on, with a bevel around it."""

    name: str
    angle_deg: float
    distance: float
    radius: float
    half_length: float = 0.0
    bevel: float = 1.0
    depth: float = THROUGH


BORE: Final = Cut("bore", 0, 0, 27.0, bevel=2.6)
BOLTS: Final = tuple(Cut(f"bolt hole {angle}", angle, 79, 8.0, bevel=3.0) for angle in range(30, 390, 60))
DOWELS: Final = tuple(Cut(f"dowel hole {angle}", angle, 79, 3.4, bevel=1.1) for angle in (0, 180))
SLOT: Final = Cut("slot", 60, 79, 3.6, half_length=9, depth=4.0)
OIL_HOLE: Final = Cut("oil hole", 235, 38.5, 2.3, bevel=0.8)
CUTS: Final = (BORE, *BOLTS, *DOWELS, SLOT, OIL_HOLE)
BEVEL_SLOPE: Final = 0.7


@dataclass(frozen=True)
class Light:
    """A lamp and its position; ``strength`` 1 is the key light's."""

    azimuth_deg: float
    elevation_deg: float
    strength: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Shot:
    """What differs between parts: position and light."""

    middle: tuple[float, float]
    turn_deg: float
    key: Light
    fill: Light
    exposure: float
    falloff: tuple[float, float]


@dataclass(frozen=True)
class PartCoordinates:
    """The part's coordinates of each point of the picture; ``outward`` is in the picture's directions."""

    x: Array
    y: Array
    radius: Array
    outward_x: Array
    outward_y: Array


@dataclass(frozen=True)
class Surface:
    """A surface. ``gloss`` 1 is bare metal, 0 matte; ``groove``: the slope of turning marks, outwards."""

    height: Array
    albedo: Array
    gloss: Array
    groove: Array


def draw_shot(generator: np.random.Generator) -> Shot:
    """Draw the position of the next part, and the lamps."""
    azimuth, elevation, key, fill = generator.normal((-125, 52, 1, 0.45), (4, 1.5, 0.03, 0.03))
    x, y = generator.normal(SIDE / 2, 1.3, 2)
    falloff_x, falloff_y = generator.normal(0, 0.04, 2)
    return Shot(
        middle=(float(x), float(y)),
        turn_deg=float(generator.normal(0, 1.5)),
        key=Light(float(azimuth), float(elevation), float(key), (1.0, 0.975, 0.935)),
        fill=Light(float(azimuth) + 162, float(elevation) - 10, float(fill), (0.90, 0.96, 1.0)),
        exposure=float(generator.normal(1, 0.025)),
        falloff=(float(falloff_x), float(falloff_y)),
    )


def make_coordinates(shot: Shot) -> PartCoordinates:
    """Return the part's coordinates of every point of the fine picture."""
    steps = (np.arange(SIDE * FINER, dtype=np.float32) + 0.5) / FINER
    right, down = np.meshgrid(steps - shot.middle[0], steps - shot.middle[1])
    right, down = right.astype(np.float32), down.astype(np.float32)
    cosine, sine = math.cos(math.radians(shot.turn_deg)), math.sin(math.radians(shot.turn_deg))
    radius = np.sqrt(right**2 + down**2) + np.float32(1e-3)
    return PartCoordinates(
        right * cosine + down * sine, down * cosine - right * sine, radius, right / radius, down / radius
    )


def machine_part(coordinates: PartCoordinates, *, cuts: Sequence[Cut], generator: np.random.Generator) -> Surface:
    """Return a part with these cuts, on its fixture."""
    radii, heights = zip(*PROFILE, strict=True)
    height = np.interp(coordinates.radius, radii, heights).astype(np.float32)
    for cut in cuts:
        cut_relief(height, cut, coordinates)
    height = np.maximum(height, np.float32(-THICKNESS))
    metal = ramp(height, -0.9 * THICKNESS, -0.7 * THICKNESS)
    etched = make_mark(coordinates)
    cloth, stain = make_fixture_grain(generator), make_stains(generator)
    return Surface(
        height=height - 0.2 * etched + 0.1 * cloth * (1 - metal),
        albedo=metal * METAL_ALBEDO * (1 - 0.5 * etched) + (1 - metal) * FIXTURE_ALBEDO * (1 + 0.12 * cloth),
        gloss=metal * (1 - 0.6 * etched) * (1 + 0.04 * stain),
        groove=make_turning_marks(coordinates, generator) * ramp(height, -2 * HUB_HEIGHT, 0),
    )


def ramp(values: Array, start: float, end: float) -> Array:
    """0 up to ``start``, 1 from ``end``, straight in between."""
    return np.clip((values - start) / (end - start), 0, 1)


def cut_relief(height: Array, cut: Cut, coordinates: PartCoordinates) -> None:
    """Cut a hole or slot into the relief, in place."""
    near = find_window(cut, coordinates)
    border = distance_to_cut(cut, coordinates, near)
    far_end = distance_to_cut(cut, coordinates, near, scale=1 + PARALLAX * min(1, cut.depth / THICKNESS))
    # The wall between the near end and the far one is seen as a crescent; it is straight in between.
    wall = np.where(far_end < 0, 1, np.clip(-border / np.maximum(far_end - border, 1e-3), 0, 1))
    height[near] -= BEVEL_SLOPE * np.clip(cut.bevel - border, 0, cut.bevel)
    height[near] -= cut.depth * wall * ramp(border, 0.25, -0.25)


def find_window(cut: Cut, coordinates: PartCoordinates) -> tuple[slice, slice]:
    """Return the rows and columns that a cut can reach, which are few."""
    x, y = get_middle(cut)
    near = (np.abs(coordinates.x - x) < get_reach(cut) + 1) & (np.abs(coordinates.y - y) < get_reach(cut) + 1)
    rows, columns = np.nonzero(near)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def is_clear(x: float, y: float, *, clearance: float) -> bool:
    """Whether a point is on a face and this far from its edges and from every cut."""
    radius = math.hypot(x, y)
    is_on_hub = radius < HUB_RADIUS - clearance
    is_on_face = HUB_FOOT_RADIUS + clearance < radius < FACE_RADIUS - clearance
    return (is_on_hub or is_on_face) and all(
        math.dist((x, y), get_middle(cut)) > get_reach(cut) + clearance for cut in CUTS
    )


def get_reach(cut: Cut) -> float:
    """Return how far from its middle a cut changes the face."""
    return cut.radius + cut.half_length + cut.bevel


def get_middle(cut: Cut) -> tuple[float, float]:
    """Return a cut's x and y on the part."""
    angle = math.radians(cut.angle_deg)
    return cut.distance * math.cos(angle), cut.distance * math.sin(angle)


def distance_to_cut(cut: Cut, coordinates: PartCoordinates, near: tuple[slice, slice], *, scale: float = 1.0) -> Array:
    """Return pixels to a cut's border, negative inside; ``scale`` above 1 gives a greater depth."""
    angle = math.radians(cut.angle_deg)
    x, y = scale * coordinates.x[near], scale * coordinates.y[near]
    outwards = x * math.cos(angle) + y * math.sin(angle) - cut.distance
    along = np.maximum(np.abs(y * math.cos(angle) - x * math.sin(angle)) - cut.half_length, 0)
    return np.sqrt(outwards**2 + along**2) - np.float32(cut.radius)


def make_turning_marks(coordinates: PartCoordinates, generator: np.random.Generator) -> Array:
    """Return the slope of the tool's marks: the spiral of its feed, and long grooves that end."""
    num_rings, num_angles, rings_per_px = 512, 256, 3.6
    table = np.fft.rfft(generator.standard_normal((num_rings, num_angles), dtype=np.float32), axis=1)
    table *= 2.2 * np.exp(-np.arange(table.shape[1], dtype=np.float32) / 5)
    table[:, 0] += generator.normal(0, 12, num_rings)
    marks = np.fft.irfft(table, n=num_angles, axis=1).astype(np.float32)
    turn = np.arctan2(coordinates.y, coordinates.x) / np.float32(2 * np.pi)
    column = ((turn + 1) * num_angles).astype(np.int32) % num_angles
    ring = np.minimum(coordinates.radius * rings_per_px, num_rings - 2)
    inner = ring.astype(np.int32)
    grooves = marks[inner, column] + (ring - np.floor(ring)) * (marks[inner + 1, column] - marks[inner, column])
    spiral = np.sin(2 * np.pi * (coordinates.radius / FEED_PX + turn + np.float32(generator.uniform())))
    return GROOVE_SLOPE * grooves + FEED_SLOPE * spiral


def make_fixture_grain(generator: np.random.Generator) -> Array:
    """Return the fine grain of a blasted and blackened plate, out of focus; about 1 either way."""
    return enlarge(blur(generator.standard_normal((SIDE, SIDE), dtype=np.float32), reach_px=1) * 2)


def make_stains(generator: np.random.Generator) -> Array:
    """Return wide, faint stains as of wiped oil; about 1 either way."""
    return enlarge(generator.standard_normal((12, 12), dtype=np.float32))


@cache
def make_mark_strip() -> Array:
    """Return the etched mark, written straight: 1 where the laser was."""
    font = ImageFont.load_default(1.3 * MARK_HEIGHT * MARK_DETAIL)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(MARK))
    strip = Pillow.new("L", (right - left, bottom - top))
    ImageDraw.Draw(strip).text((-left, -top), MARK, fill=255, font=font)
    return np.pad(np.asarray(strip, np.float32) / 255, 1)


def make_mark(coordinates: PartCoordinates) -> Array:
    """Return the mark, bent around the axis."""
    strip = make_mark_strip()
    num_rows, num_columns = strip.shape
    cosine, sine = math.cos(math.radians(MARK_ANGLE_DEG)), math.sin(math.radians(MARK_ANGLE_DEG))
    angle = np.arctan2(coordinates.y * cosine - coordinates.x * sine, coordinates.x * cosine + coordinates.y * sine)
    column = (angle * MARK_RADIUS * MARK_DETAIL + num_columns / 2).astype(np.int32)
    row = ((MARK_RADIUS - coordinates.radius) * MARK_DETAIL + num_rows / 2).astype(np.int32)
    # What lies outside falls on the strip's border, which is empty.
    return strip[np.clip(row, 0, num_rows - 1), np.clip(column, 0, num_columns - 1)]


def enlarge(values: Array) -> Array:
    """Resize to the fine picture."""
    return np.asarray(Pillow.fromarray(values).resize((SIDE * FINER, SIDE * FINER), Pillow.Resampling.BICUBIC))


def blur(values: Array, *, reach_px: int) -> Array:
    """Blur with a triangular kernel."""
    for axis in (0, 1):
        near = [np.roll(values, step, axis) * (reach_px + 1 - abs(step)) for step in range(-reach_px, reach_px + 1)]
        values = np.asarray(sum(near), np.float32) / np.float32((reach_px + 1) ** 2)
    return values


def expose(surface: Surface, coordinates: PartCoordinates, shot: Shot) -> Array:
    """Return the light that reaches the sensor: rows, columns, red green blue; 1 is about white."""
    slope_y, slope_x = np.gradient(surface.height, np.float32(1 / FINER))
    slopes = slope_x + surface.groove * coordinates.outward_x, slope_y + surface.groove * coordinates.outward_y
    openness = compute_openness(surface.height)
    from_key = reflect(surface, coordinates, slopes, shot.key) * compute_visibility(surface.height, shot.key)
    from_fill = reflect(surface, coordinates, slopes, shot.fill) * openness
    parts = (
        (reflect_surroundings(surface, slopes) * openness, SKY_TINT),
        (from_key * shot.key.strength, shot.key.tint),
        (from_fill * shot.fill.strength, shot.fill.tint),
    )
    light = sum(bin_pixels(grey)[..., None] * np.array(tint, np.float32) for grey, tint in parts)
    return soften(np.asarray(light)) * compute_exposure(shot)


def bin_pixels(values: Array) -> Array:
    """Average fine points to pixels."""
    # Sums of slices: numpy's mean over two axes of four takes several times as long.
    phases = [values[row::FINER, column::FINER] for row in range(FINER) for column in range(FINER)]
    return np.asarray(sum(phases), np.float32) / np.float32(FINER**2)


def reflect(surface: Surface, coordinates: PartCoordinates, slopes: tuple[Array, Array], light: Light) -> Array:
    """Return what a lamp reflects into the camera.

    A gleam stretched across the grooves (after Ward), and a matte rest.
    """
    azimuth, elevation = math.radians(light.azimuth_deg), math.radians(light.elevation_deg)
    x, y, z = math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)
    # A slope of minus the half-vector's mirrors the lamp into the camera, which looks straight down.
    off_x, off_y = slopes[0] + x / (1 + z), slopes[1] + y / (1 + z)
    across = (off_x * coordinates.outward_x + off_y * coordinates.outward_y) ** 2
    along = (off_y * coordinates.outward_x - off_x * coordinates.outward_y) ** 2
    gleam = np.exp(-across / (2 * ACROSS**2) - along / (2 * ALONG**2))
    haze = np.exp(-(across + along) / (2 * ROUGH**2))
    upright = 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    matte = np.maximum(0, (z - slopes[0] * x - slopes[1] * y) * upright)
    scatter = 0.45 * surface.albedo + 0.3 * surface.gloss * (1 - upright)
    return surface.gloss * (0.75 * gleam + 0.11 * haze) + scatter * matte


def reflect_surroundings(surface: Surface, slopes: tuple[Array, Array]) -> Array:
    """Return the reflection of the hall: bright above the part, darker to the sides."""
    dome = np.exp(-2 * (slopes[0] ** 2 + slopes[1] ** 2))
    return 0.10 * surface.gloss * dome + 0.35 * surface.albedo


def compute_openness(height: Array) -> Array:
    """Return 1 on a plain, towards 0 in corners and holes, where the surroundings take light away."""
    around = blur(blur(bin_pixels(height), reach_px=4), reach_px=4)
    above = enlarge(around) - height
    return 1 / (1 + 0.22 * np.clip(above, 0, None))


def compute_visibility(height: Array, light: Light) -> Array:
    """Return 1 where the lamp reaches, 0 in the depth of a cast shadow, which softens with the distance."""
    azimuth, rise = math.radians(light.azimuth_deg), math.tan(math.radians(light.elevation_deg))
    hidden = np.zeros_like(height)
    for step in SHADOW_STEPS:
        shift = -round(FINER * step * math.sin(azimuth)), -round(FINER * step * math.cos(azimuth))
        above = np.roll(height, shift, (0, 1)) - height - step * rise
        np.maximum(hidden, above / (0.6 + 0.2 * step), out=hidden)
    return 1 - np.minimum(hidden, 1)


def compute_exposure(shot: Shot) -> Array:
    """Return the brightness of each pixel: exposure, a lamp nearer to one side, and the lens's fall-off."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    side = 1 + shot.falloff[0] * x + shot.falloff[1] * y - 0.13 * (x**2 + y**2)
    return np.asarray(shot.exposure * side, np.float32)[..., None]


def soften(picture: Array) -> Array:
    """Soften as a lens does, by about half a pixel."""
    for axis in (0, 1):
        picture = 0.74 * picture + 0.13 * (np.roll(picture, 1, axis) + np.roll(picture, -1, axis))
    return picture


def add_noise(picture: Array, generator: np.random.Generator) -> Array:
    """Add a sensor's noise, which neighbours and colours share in part, since colours are interpolated."""
    own = generator.standard_normal((SIDE, SIDE, 3), dtype=np.float32)
    shared = generator.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    grain = 1.4 * soften(0.6 * own + 0.8 * shared)
    return picture + grain * np.sqrt(READ_NOISE + SHOT_NOISE * np.clip(picture, 0, None))


def develop(picture: Array) -> Picture:
    """Convert to 8 bits with a camera's tone curve: highlights roll off."""
    light = np.clip(1.35 * picture, 0, None)
    return np.asarray(255 * (light / np.cbrt(1 + light**3)) ** (1 / 2) + 0.5, np.uint8)
