"""Input ranges: what the product's images look like, so that the service can refuse those of a covered lens.

The ranges of good parts are widened, since only gross faults of camera or light should lie outside: on the test images
of the three data sets in ``docs/quality.md`` none does, good or defective.
"""

from collections.abc import Sequence

from model.bundle import MEASURES, ExpectsRecord, MeasureName, RangeRecord

# A range of fewer images is too narrow: with ten magnetic tiles, every tenth other one would be outside.
MIN_IMAGES = 30
# How much wider than what was seen: grey levels for the brightness, factors for the rest.
BRIGHTNESS_MARGIN = 25.0
FACTORS: dict[MeasureName, float] = {"width_px": 1.5, "height_px": 1.5, "contrast": 3.0, "sharpness": 3.0}


def compute_input_ranges(images: Sequence[dict[MeasureName, float]]) -> ExpectsRecord | None:
    """Return the widened ranges of measures of good parts; None for too few images."""
    if len(images) < MIN_IMAGES:
        return None
    ranges = {}
    for name in MEASURES:
        values = [image[name] for image in images]
        ranges[name] = widen(name, min(values), max(values))
    return ExpectsRecord(**ranges)


def widen(name: MeasureName, low: float, high: float) -> RangeRecord:
    """Widen a range by its own width, and at least by the minimum margin."""
    if name == "brightness":
        margin = max(high - low, BRIGHTNESS_MARGIN)
        return RangeRecord(low=low - margin, high=high + margin)
    factor = max(FACTORS[name], high / low if low > 0 else FACTORS[name])
    return RangeRecord(low=low / factor, high=high * factor)
