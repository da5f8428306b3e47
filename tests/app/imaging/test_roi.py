import dataclasses

import numpy as np
import pytest
from drawing import defective_part, encode, good_part

from app.imaging.decode import Box, Image
from app.imaging.roi import RegionOfInterest, region_from_png
from app.inference.detector import valid_positions
from app.inspection.pipeline import inspect
from model.bundle import BundleError

LEFT_HALF = RegionOfInterest(np.tile(np.arange(8) < 4, (6, 1)))


def image(content):
    return Image(np.zeros((64, 64, 3), np.uint8), content, content.width, content.height, sha256="")


def test_the_region_scales_with_the_image():
    valid = valid_positions(image(Box(0, 0, 64, 64)), (16, 16), LEFT_HALF)
    assert valid[:, :8].all()
    assert not valid[:, 8:].any()


def test_the_region_lies_on_the_image_and_not_on_its_padding():
    """The image is columns 16 to 47; its left half ends at column 31, map column 7."""
    valid = valid_positions(image(Box(16, 0, 32, 64)), (16, 16), LEFT_HALF)
    assert valid[:, 4:8].all()
    assert valid.sum() == 16 * 4


def test_a_region_survives_its_file():
    assert np.array_equal(region_from_png(LEFT_HALF.to_png()).inside, LEFT_HALF.inside)
    assert LEFT_HALF.share == 0.5


@pytest.mark.parametrize("data", [b"", b"hello", RegionOfInterest(np.zeros((4, 4), bool)).to_png()])
def test_a_region_that_shows_nothing_is_refused(data):
    with pytest.raises(BundleError, match="the region"):
        region_from_png(data)


def test_a_defect_outside_the_region_changes_nothing(tiny_version):
    """The blot lies at x = 76 of 96, far in the right half."""
    version = dataclasses.replace(tiny_version, roi=LEFT_HALF)
    good = inspect(encode(good_part(3)), version, max_pixels=10**6)
    bad = inspect(encode(defective_part(3, centre=(82, 40))), version, max_pixels=10**6)
    everywhere = inspect(encode(defective_part(3, centre=(82, 40))), tiny_version, max_pixels=10**6)
    assert everywhere.verdict == "ng"
    assert (bad.verdict, bad.regions) == (good.verdict, ())
    assert (bad.map[:, 8:] == 0).all()
    # Features of a neighbouring position may see the blot's edge; the score may move that little.
    assert abs(bad.score - good.score) < 0.2 * (everywhere.score - good.score)
