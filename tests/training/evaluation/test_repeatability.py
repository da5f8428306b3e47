"""What small changes of an image do to its result, with the committed version of the first format."""

import numpy as np
import pytest
from drawing import encode, good_part
from PIL import Image

from app.inspection.pipeline import inspect
from training.evaluation import repeatability
from training.evaluation.repeatability import (
    CHANGES,
    LIGHT,
    NOISE_LEVELS,
    NUM_PARTS,
    SHIFT_PX,
    Repeat,
    add_noise,
    brighten,
    count_repeats,
    darken,
    measure_repeatability,
    shift,
)
from training.evaluation.synthetic import to_png

LIMIT = 10**6
GENERATOR = np.random.default_rng(0)


@pytest.fixture
def picture():
    return good_part(1)


def to_levels(picture):
    return np.asarray(picture).astype(int)


def test_a_shift_moves_every_pixel_right_and_down_and_around(picture):
    before, after = to_levels(picture), to_levels(shift(picture, GENERATOR))
    for y, x in np.ndindex(before.shape):
        assert after[(y + SHIFT_PX) % before.shape[0], (x + SHIFT_PX) % before.shape[1]] == before[y, x]


@pytest.mark.parametrize(("change", "factor"), [(brighten, 1 + LIGHT), (darken, 1 - LIGHT)])
def test_light_multiplies_every_level(picture, change, factor):
    before, after = to_levels(picture), to_levels(change(picture, GENERATOR))
    assert np.abs(after - np.minimum(before * factor, 255)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_has_its_spread_and_no_level_of_its_own(mode):
    grey = Image.new(mode, (200, 200), 128 if mode == "L" else (128, 128, 128))
    after = to_levels(add_noise(grey, np.random.default_rng(0)))
    assert after.shape == to_levels(grey).shape
    assert after.mean() == pytest.approx(128, abs=0.1)
    assert after.std() == pytest.approx(NOISE_LEVELS, rel=0.05)


@pytest.mark.parametrize("level", [0, 255])
def test_noise_stays_within_the_levels_that_there_are(level):
    after = to_levels(add_noise(Image.new("L", (50, 50), level), np.random.default_rng(0)))
    assert np.abs(after - level).max() < 15
    assert (after == level).mean() > 0.4  # of half of them the noise goes beyond


def measure(version, parts, seed=3):
    done = []
    return measure_repeatability(version, parts, seed=seed, max_pixels=LIMIT, on_part=done.append), done


def test_each_change_is_measured_on_every_part_and_summed_up(tiny_version):
    parts = [encode(good_part(number)) for number in range(3)]
    repeats, done = measure(tiny_version, parts)
    assert done == [3] * len(CHANGES)
    generator = np.random.default_rng(3)
    pictures = [good_part(number) for number in range(3)]
    for repeat, (name, change) in zip(repeats, CHANGES.items(), strict=True):
        pairs = [
            (
                inspect(to_png(change(one, generator)), tiny_version, max_pixels=LIMIT),
                inspect(to_png(one), tiny_version, max_pixels=LIMIT),
            )
            for one in pictures
        ]
        off = [after.score - before.score for after, before in pairs]
        mean = sum(off) / 3
        assert (repeat.change, repeat.num_parts) == (name, 3)
        assert repeat.spread == pytest.approx((sum((one - mean) ** 2 for one in off) / 3) ** 0.5)
        assert repeat.largest == pytest.approx(max(map(abs, off)))
        assert repeat.num_flipped == sum(after.verdict != before.verdict for after, before in pairs)
        assert repeat.largest > 0


def test_a_change_that_turns_verdicts_is_counted(tiny_version, monkeypatch):
    """As if all light went out, for each part but the first."""
    parts = [encode(good_part(number)) for number in range(3)]

    def spoil(picture, _):
        pixels = np.asarray(picture)
        return picture if (pixels == np.asarray(good_part(0))).all() else Image.fromarray(255 - pixels)

    monkeypatch.setattr(repeatability, "CHANGES", {"spoilt": spoil})
    (repeat,), _ = measure(tiny_version, parts)
    assert (repeat.num_parts, repeat.num_flipped) == (3, 2)
    assert isinstance(repeat, Repeat)


def test_no_more_parts_are_tried_than_the_progress_says(tiny_version, monkeypatch):
    monkeypatch.setattr(repeatability, "NUM_PARTS", 2)
    monkeypatch.setattr(repeatability, "CHANGES", {"moved": shift})
    (repeat,), done = measure(tiny_version, [encode(good_part(number)) for number in range(4)])
    assert repeat.num_parts == sum(done) == count_repeats(4) == 2


def test_parts_that_are_neither_grey_nor_colour_of_8_bits_are_not_changed(tiny_version):
    deep = encode(Image.fromarray(np.zeros((80, 96), np.uint16)))
    assert measure(tiny_version, [deep]) == ((), [])


def test_as_many_inspections_are_repeated_as_there_are_changes_and_parts():
    assert count_repeats(5) == 5 * len(CHANGES)
    assert count_repeats(NUM_PARTS + 7) == NUM_PARTS * len(CHANGES)
