from math import ceil, floor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from app.imaging.decode import Box, Image
from app.imaging.regions import Grid, find_regions, label_components, make_grid


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


def slow_region(positions, grid):
    """The smallest box of whole pixels around the positions, cut to the image, and the area of the positions in it."""
    left = max(0, min(floor(grid.x0 + column * grid.step_x) for _, column in positions))
    top = max(0, min(floor(grid.y0 + row * grid.step_y) for row, _ in positions))
    right = min(grid.width, max(ceil(grid.x0 + (column + 1) * grid.step_x) for _, column in positions))
    bottom = min(grid.height, max(ceil(grid.y0 + (row + 1) * grid.step_y) for row, _ in positions))
    area = round(len(positions) * grid.step_x * grid.step_y)
    return left, top, right - left, bottom - top, max(1, min(area, (right - left) * (bottom - top)))


GRIDS = st.builds(
    Grid,
    x0=st.floats(-3, 0),
    y0=st.floats(-3, 0),
    step_x=st.floats(0.3, 7),
    step_y=st.floats(0.3, 7),
    width=st.integers(4, 40),
    height=st.integers(4, 40),
)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), GRIDS)
def test_every_region_is_the_slow_region(mask, grid):
    # A letterbox has no positions beyond the image: what lies wholly outside is left out here, too.
    x = grid.x0 + (np.arange(mask.shape[1]) + 0.5) * grid.step_x
    y = grid.y0 + (np.arange(mask.shape[0]) + 0.5) * grid.step_y
    mask = mask & np.outer((y > 0) & (y < grid.height), (x > 0) & (x < grid.width))
    map_ = mask * np.arange(1, mask.size + 1, dtype=np.float32).reshape(mask.shape)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    pieces = [np.argwhere(labels == label + 1).tolist() for label in range(count)]
    found = find_regions(map_, threshold=0.5, grid=grid)
    assert sorted((one.x, one.y, one.width, one.height, one.area_px) for one in found) == sorted(
        slow_region(piece, grid) for piece in pieces
    )
    # The last position of a piece is its highest here.
    assert [one.peak for one in found] == sorted((map_[tuple(piece[-1])] for piece in pieces), reverse=True)
    assert all(map_[one.peak_row, one.peak_column] == one.peak for one in found)


def test_a_position_at_the_threshold_is_in_no_region():
    """As an image whose score is the threshold is ok."""
    grid = make_grid(image(width=64, height=64), (16, 16))
    map_ = np.zeros((16, 16), np.float32)
    map_[3, 3:5] = 5, 5.5
    (region,) = find_regions(map_, threshold=5, grid=grid)
    assert (region.x, region.width) == (16, 4)
    assert find_regions(map_, threshold=5.5, grid=grid) == ()


def test_a_region_of_the_smallest_area_that_is_asked_for_is_shown():
    grid = make_grid(image(width=64, height=64), (16, 16))
    map_ = np.zeros((16, 16), np.float32)
    map_[0, 0] = 6
    assert [region.area_px for region in find_regions(map_, threshold=5, grid=grid, min_area_px=16)] == [16]
    assert find_regions(map_, threshold=5, grid=grid, min_area_px=17) == ()


def test_a_grid_begins_where_the_canvas_begins_on_the_posted_image():
    """A 30 x 90 image lies in columns 16 to 47 of 64, enlarged a little in height; the map is 8 x 16."""
    grid = make_grid(image(width=30, height=90, content=Box(16, 2, 32, 60)), (8, 16))
    for row, column in np.ndindex(8, 16):
        canvas_x, canvas_y = column * 64 / 16, row * 64 / 8
        assert abs(grid.x0 + column * grid.step_x - (canvas_x - 16) * 30 / 32) < 1e-9
        assert abs(grid.y0 + row * grid.step_y - (canvas_y - 2) * 90 / 60) < 1e-9
    assert (grid.width, grid.height) == (30, 90)


def test_a_region_that_the_image_cuts_has_no_more_area_than_is_seen_of_it():
    """Positions of 10 x 10 pixels on an image of 35 x 35: of the last one 5 x 5 pixels are seen."""
    grid = Grid(x0=0.0, y0=0.0, step_x=10.0, step_y=10.0, width=35, height=35)
    map_ = np.zeros((4, 4), np.float32)
    map_[3, 3] = 9
    (region,) = find_regions(map_, threshold=5, grid=grid)
    assert (region.x, region.y, region.width, region.height, region.area_px) == (30, 30, 5, 5, 25)
