import io

import numpy as np
import pytest
from PIL import Image as Pillow

from app.imaging.decode import Box, Image
from app.imaging.heatmap import COLOURS, MAX_SIDE_PX, RANGE, render


def image(*, width=96, height=80, content=Box(0, 0, 64, 64)):  # noqa: B008  # frozen
    return Image(np.full((64, 64, 3), 90, np.uint8), content, width, height, sha256="")


def open_picture(heatmap):
    picture = Pillow.open(io.BytesIO(heatmap.data))
    return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def test_none_is_none():
    assert render(np.zeros((16, 16), np.float32), image(), kind="none") is None


@pytest.mark.parametrize("kind", ["png", "overlay", "raw"])
def test_a_heatmap_covers_the_posted_image(kind):
    heatmap = render(np.zeros((16, 16), np.float32), image(), kind=kind)
    assert (heatmap.width, heatmap.height) == (96, 80)
    assert open_picture(heatmap).shape[:2] == (80, 96)


def test_colours_are_absolute_and_not_stretched_per_image():
    for value, colour in ((RANGE[0], COLOURS[0]), (RANGE[1], COLOURS[-1]), (RANGE[1] * 2, COLOURS[-1])):
        shown = open_picture(render(np.full((16, 16), value, np.float32), image(), kind="png"))
        assert np.abs(shown.astype(int) - colour).max() <= 1


def test_raw_has_sixteen_bits_over_the_range():
    shown = open_picture(render(np.full((16, 16), RANGE[1] / 2, np.float32), image(), kind="raw"))
    assert shown.dtype == np.uint16
    assert np.abs(shown.astype(int) - 32768).max() <= 1


def test_an_ordinary_overlay_is_the_image():
    shown = open_picture(render(np.zeros((16, 16), np.float32), image(), kind="overlay"))
    assert (shown == 90).all()


def test_padding_is_cropped():
    """The content is canvas rows 16 to 47; what lies above it must not be seen."""
    map_ = np.zeros((16, 16), np.float32)
    map_[:4] = RANGE[1]
    shown = open_picture(render(map_, image(width=64, height=32, content=Box(0, 16, 64, 32)), kind="raw"))
    assert shown[4:].max() == 0


def test_a_large_image_gets_a_bounded_heatmap():
    heatmap = render(np.zeros((16, 16), np.float32), image(width=4000, height=1000), kind="png")
    assert (heatmap.width, heatmap.height) == (MAX_SIDE_PX, MAX_SIDE_PX // 4)
