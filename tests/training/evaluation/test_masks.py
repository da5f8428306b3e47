"""Masks of defects: of their image's size, and one error that names the file."""

import pytest
from PIL import Image

from training.data.images import ImageFile, ImageSource
from training.errors import BadImage
from training.evaluation.evaluate import open_mask


def write_mask(path, mode="L", size=(8, 6), colour=255):
    Image.new(mode, size, colour).save(path)
    return ImageFile(path, ImageSource())


@pytest.mark.parametrize(("mode", "colour"), [("L", 255), ("1", 1), ("RGB", "white"), ("I;16", 65535)])
def test_a_mask_is_grey_in_whatever_mode_it_was_drawn(tmp_path, mode, colour):
    mask = open_mask(write_mask(tmp_path / "a_mask.png", mode, colour=colour), size=(8, 6))
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (8, 6), (255, 255))


def test_a_mask_of_another_size_is_refused(tmp_path):
    with pytest.raises(BadImage, match="the mask is 8 x 6, but its image is 6 x 8"):
        open_mask(write_mask(tmp_path / "a_mask.png"), size=(6, 8))


@pytest.mark.parametrize("num_bytes", [0, 20, 60])
def test_a_mask_that_cannot_be_read_is_named(tmp_path, num_bytes):
    mask = write_mask(tmp_path / "a_mask.png")
    mask.path.write_bytes(mask.path.read_bytes()[:num_bytes])
    with pytest.raises(BadImage, match=r"a_mask\.png: the mask can't be read"):
        open_mask(mask, size=(8, 6))


def test_a_mask_that_is_gone_is_named(tmp_path):
    with pytest.raises(BadImage, match=r"a_mask\.png: the mask can't be read"):
        open_mask(ImageFile(tmp_path / "a_mask.png", ImageSource()), size=(8, 6))
