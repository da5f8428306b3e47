"""What the product's images look like, so that the service can tell a covered lens from a bad part.

The ranges seen on good parts are widened, since only gross faults of the camera or the light should lie outside: on
the test images of the three data sets that ``docs/quality.md`` reports on, none does, good or defective.
"""

from collections.abc import Sequence

from model.bundle import MEASURES, ExpectsRecord, MeasureName, RangeRecord

# From fewer images a range says little: of ten magnetic tiles, every tenth other one would lie outside.
LEAST_IMAGES = 30
# How much wider than what was seen: grey levels for the brightness, factors for the rest.
BRIGHTNESS_MARGIN = 25.0
FACTORS: dict[MeasureName, float] = {"width_px": 1.5, "height_px": 1.5, "contrast": 3.0, "sharpness": 3.0}


def expects_of(images: Sequence[dict[MeasureName, float]]) -> ExpectsRecord | None:
    """The widened ranges of what was measured on good parts; None where there are too few to say."""
    if len(images) < LEAST_IMAGES:
        return None
    ranges = {}
    for name in MEASURES:
        values = [image[name] for image in images]
        ranges[name] = widened(name, min(values), max(values))
    return ExpectsRecord(**ranges)


def widened(name: MeasureName, low: float, high: float) -> RangeRecord:
    """A range with its margin: as wide again as it is, and not less than the least margin."""
    if name == "brightness":
        margin = max(high - low, BRIGHTNESS_MARGIN)
        return RangeRecord(low=low - margin, high=high + margin)
    factor = max(FACTORS[name], high / low if low > 0 else FACTORS[name])
    return RangeRecord(low=low / factor, high=high * factor)
