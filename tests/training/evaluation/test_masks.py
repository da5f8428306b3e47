"""Masks of defects: of their image's size, and one error that names the file."""

import pytest
from PIL import Image

from training.errors import BadImage
from training.evaluation.evaluate import open_mask


def write_mask(path, mode="L", size=(8, 6), colour=255):
    Image.new(mode, size, colour).save(path)
    return path


@pytest.mark.parametrize(("mode", "colour"), [("L", 255), ("1", 1), ("RGB", "white"), ("I;16", 65535)])
def test_a_mask_is_grey_in_whatever_mode_it_was_drawn(tmp_path, mode, colour):
    mask = open_mask(write_mask(tmp_path / "a_mask.png", mode, colour=colour), size=(8, 6))
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (8, 6), (255, 255))


def test_a_mask_of_another_size_is_refused(tmp_path):
    with pytest.raises(BadImage, match="the mask is 8 x 6, but its image is 6 x 8"):
        open_mask(write_mask(tmp_path / "a_mask.png"), size=(6, 8))


@pytest.mark.parametrize("num_bytes", [0, 20, 60])
def test_a_mask_that_cannot_be_read_is_named(tmp_path, num_bytes):
    path = write_mask(tmp_path / "a_mask.png")
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(BadImage, match=r"a_mask\.png: the mask can't be read"):
        open_mask(path, size=(8, 6))
    path.unlink()
    with pytest.raises(BadImage, match="the mask can't be read"):
        open_mask(path, size=(8, 6))
