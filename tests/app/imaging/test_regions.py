import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from app.imaging.decode import Box, Image
from app.imaging.regions import find_regions, label_components, make_grid


def image(*, width, height, content=Box(0, 0, 64, 64)):  # noqa: B008  # frozen
    return Image(np.zeros((64, 64, 3), np.uint8), content, width, height, sha256="")


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_pieces_are_those_of_scipy(mask):
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    ours = label_components(mask)
    assert len(np.unique(ours[mask])) == count
    assert ((ours > 0) == mask).all()
    for label in range(1, count + 1):
        assert len(np.unique(ours[labels == label])) == 1


def test_a_region_is_placed_on_the_posted_image():
    map_ = np.zeros((16, 16), np.float32)
    map_[4:6, 8:12] = 8
    map_[5, 10] = 9
    (region,) = find_regions(map_, threshold=5, grid=make_grid(image(width=320, height=160), (16, 16)))
    assert (region.x, region.y, region.width, region.height) == (160, 40, 80, 20)
    assert region.area_px == 80 * 20
    assert (region.peak, region.peak_row, region.peak_column) == (9, 5, 10)


def test_a_region_in_a_letterbox_is_placed_on_the_posted_image():
    """A 100 x 50 image lies in rows 16 to 47 of 64; map row 8 of 16 is canvas row 32, its middle."""
    map_ = np.zeros((16, 16), np.float32)
    map_[8, 0] = 9
    grid = make_grid(image(width=100, height=50, content=Box(0, 16, 64, 32)), (16, 16))
    (region,) = find_regions(map_, threshold=5, grid=grid)
    assert (region.x, region.y) == (0, 25)
    assert (region.width, region.height) == (7, 7)


def test_regions_are_sorted_by_peak_and_small_ones_can_be_left_out():
    map_ = np.zeros((16, 16), np.float32)
    map_[1, 1] = 6
    map_[8:12, 8:12] = 8
    grid = make_grid(image(width=64, height=64), (16, 16))
    assert [region.peak for region in find_regions(map_, threshold=5, grid=grid)] == [8, 6]
    assert [region.peak for region in find_regions(map_, threshold=5, grid=grid, min_area_px=17)] == [8]


def test_an_ordinary_map_has_no_region():
    grid = make_grid(image(width=64, height=64), (16, 16))
    assert find_regions(np.zeros((16, 16), np.float32), threshold=5, grid=grid) == ()
