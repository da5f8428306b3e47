import numpy as np
import pytest
from drawing import encode, good_part
from PIL import Image, ImageFilter

from app.errors import ImageError
from app.imaging.decode import decode
from app.imaging.input_check import check_input, measure, sharpness
from training.data.input_ranges import MIN_IMAGES, compute_input_ranges


@pytest.fixture(scope="module")
def look(tiny_version):
    def at(picture):
        return decode(encode(picture), tiny_version.manifest.input, max_pixels=10**6)

    return at


@pytest.fixture(scope="module")
def expects(look):
    return compute_input_ranges([measure(look(good_part(seed))) for seed in range(MIN_IMAGES)])


def test_good_parts_and_defective_ones_pass(look, expects, defective_bytes, tiny_version):
    assert check_input(look(good_part(1000)), expects, "refuse") == ()
    defective = decode(defective_bytes, tiny_version.manifest.input, max_pixels=10**6)
    assert check_input(defective, expects, "refuse") == ()


BAD_LOOKS = {
    "a covered lens": (lambda part: part.point(lambda value: value // 50), "brightness is"),
    "a burnt image": (lambda part: part.point(lambda _: 255), "brightness is"),
    "out of focus": (lambda part: part.filter(ImageFilter.GaussianBlur(6)), "sharpness is"),
    "noise": (lambda part: Image.effect_noise(part.size, 120), "sharpness is"),
    "another camera": (lambda part: part.resize((400, 300)), "width_px is 400.0, 256.0 outside of 64.0 to 144.0"),
}


@pytest.mark.parametrize("name", BAD_LOOKS)
def test_a_gross_fault_of_the_camera_is_named_with_how_far_it_is_off(look, expects, name):
    spoil, words = BAD_LOOKS[name]
    image = look(spoil(good_part(1000)))
    with pytest.raises(ImageError, match="the image differs from the training images of this product") as caught:
        check_input(image, expects, "refuse")
    assert words in str(caught.value)
    assert any(words in warning for warning in check_input(image, expects, "warn"))
    assert check_input(image, expects, "off") == ()


def test_a_version_that_expects_nothing_lets_everything_in(look):
    assert check_input(look(good_part(0).point(lambda _: 0)), None, "refuse") == ()


def test_too_few_images_say_nothing(look):
    assert compute_input_ranges([measure(look(good_part(0)))] * (MIN_IMAGES - 1)) is None


def test_sharpness_is_that_of_the_slow_laplacian():
    grey = np.random.default_rng(0).uniform(0, 255, (7, 9)).astype(np.float32)
    slow = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 6)
        for x in range(1, 8)
    ]
    assert sharpness(grey) == pytest.approx(np.std(slow), rel=1e-5)
    assert sharpness(grey[:2]) == 0.0
