from dataclasses import replace

import numpy as np
import pytest

from app.imaging.regions import Region
from app.inference.detector import Comparison, RecalledItems
from app.inference.explain import explain_region, pack_patches, unpack_patches
from model.bundle import BundleError, ScaleRecord

PICTURES = [b"first", b"second", b"third"]


def region_at(row, column):
    return Region(x=0, y=0, width=1, height=1, area_px=1, peak=5.0, peak_row=row, peak_column=column)


@pytest.fixture
def manifest(tiny_version):
    """Of 64 x 64 pixels, strides 16 and 8, and a map of 16 x 16."""
    scales = (ScaleRecord(stride=16, weight=0.8), ScaleRecord(stride=8, weight=0.2))
    return tiny_version.manifest.model_copy(update={"scales": scales, "method": "full"})


@pytest.fixture
def comparison():
    maps = np.zeros((2, 16, 16), np.float32)
    maps[:, 5, 13] = 3.0, 1.0
    items = np.zeros((16, 2), np.int64)
    weights = np.full((16, 2), 0.5, np.float32)
    items[1 * 4 + 3] = 2, 1  # map position (5, 13) lies in position (1, 3) of the first scale
    weights[1 * 4 + 3] = 0.3, 0.7
    return Comparison(maps, maps.sum(0), 1.0, np.zeros(2), np.zeros(2), RecalledItems(items, weights))


def test_a_region_is_explained_by_the_patches_recalled_at_its_peak(manifest, comparison):
    patches = unpack_patches(pack_patches(PICTURES))
    found = explain_region(region_at(5, 13), comparison, manifest, patches)
    assert [(patch.jpeg, round(patch.weight, 5)) for patch in found.expected] == [(b"second", 0.7), (b"third", 0.3)]


def test_items_of_one_picture_are_one_patch(manifest, comparison):
    patches = unpack_patches(pack_patches([b"same", b"same", b"same"]))
    found = explain_region(region_at(5, 13), comparison, manifest, patches)
    assert [(patch.jpeg, round(patch.weight, 5)) for patch in found.expected] == [(b"same", 1.0)]


def test_scales_share_the_peak(manifest, comparison):
    found = explain_region(region_at(5, 13), comparison, manifest, None)
    assert [(scale.stride, scale.share) for scale in found.scales] == [(16, 0.75), (8, 0.25)]


def test_in_a_quick_version_the_first_scale_alone_makes_the_map(manifest, comparison):
    quick = manifest.model_copy(update={"method": "quick"})
    found = explain_region(region_at(5, 13), comparison, quick, None)
    assert [scale.share for scale in found.scales] == [1.0, 0.0]


def test_in_an_older_version_scales_share_the_map_as_the_score(manifest, comparison):
    found = explain_region(region_at(5, 13), replace(comparison, recalled=None), manifest, None)
    assert [round(scale.share, 3) for scale in found.scales] == [0.923, 0.077]  # 3 x 0.8 to 1 x 0.2


def test_an_item_without_a_picture_is_left_out(manifest, comparison):
    found = explain_region(region_at(5, 13), comparison, manifest, unpack_patches(pack_patches(PICTURES[:2])))
    assert [patch.jpeg for patch in found.expected] == [b"second"]


def test_a_version_without_pictures_explains_by_scale_alone(manifest, comparison):
    assert explain_region(region_at(5, 13), comparison, manifest, None).expected == ()


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", pack_patches(PICTURES)[:-40], pack_patches([b"a", b""]), pack_patches([])],
    ids=["empty", "nonsense", "cut", "an item without a picture", "no item"],
)
def test_damaged_pictures_are_refused(data):
    with pytest.raises(BundleError, match=r"patches\.npz"):
        unpack_patches(data)


def test_pictures_are_read_as_they_were_packed():
    patches = unpack_patches(pack_patches(PICTURES))
    assert [patches.jpeg(item) for item in range(3)] == PICTURES
