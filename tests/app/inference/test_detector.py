import numpy as np
import pytest
from drawing import encode, good_part

from app.imaging.decode import decode
from app.imaging.roi import RegionOfInterest
from app.inference.detector import make_batch
from model.bundle import InputRecord


@pytest.fixture
def image():
    rule = InputRecord(height=64, width=64, fit="letterbox", channels="grey", white_level=255)
    return decode(encode(good_part(0, size=(100, 50))), rule, max_pixels=10**6)


def make_left_half(*, is_blanked):
    inside = np.zeros((10, 10), dtype=bool)
    inside[:, :5] = True
    return RegionOfInterest(inside, is_blanked=is_blanked)


def test_pixels_outside_the_region_never_reach_the_teacher(image):
    pixels = make_batch([image], map_size=(16, 16), roi=make_left_half(is_blanked=True)).pixels[0]
    assert (pixels[16:48, 32:] == 127).all()
    np.testing.assert_array_equal(pixels[16:48, :32], image.pixels[16:48, :32])


def test_versions_of_format_1_see_the_whole_image(image):
    batch = make_batch([image], map_size=(16, 16), roi=make_left_half(is_blanked=False))
    np.testing.assert_array_equal(batch.pixels[0], image.pixels)
    assert batch.valid[0, :, 8:].sum() == 0
