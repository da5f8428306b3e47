import numpy as np
import pytest

from training.evaluation.metrics import area_up_to, image_metrics, pixel_metrics


def slow_aupro(maps, masks, limit):
    """Threshold by threshold, region by region."""
    from scipy import ndimage

    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, labels == label) for label in range(1, count + 1)]
    num_good = sum((~mask).sum() for mask in masks)
    points = [(0.0, 0.0)]
    for threshold in sorted({value for one in maps for value in one.ravel()}, reverse=True):
        found = [one >= threshold for one in maps]
        rate = sum((hit & ~mask).sum() for hit, mask in zip(found, masks, strict=True)) / num_good
        overlap = np.mean([found[index][region].mean() for index, region in regions])
        points.append((rate, overlap))
    x, y = np.array(points).T
    return area_up_to(x, y, limit) / limit


@pytest.fixture
def case():
    generator = np.random.default_rng(0)
    masks = [np.zeros((12, 10), bool) for _ in range(3)]
    masks[0][2:5, 2:4] = True
    masks[0][8, 8] = True
    masks[1][6:9, 1:9] = True
    maps = [np.round(generator.normal(size=mask.shape) + mask, 1).astype(np.float32) for mask in masks]
    return maps, masks


def test_aupro_is_the_slow_aupro(case):
    maps, masks = case
    for limit in (0.05, 0.3, 1.0):
        assert abs(pixel_metrics(maps, masks, limit=limit).aupro - slow_aupro(maps, masks, limit)) < 1e-6


def test_a_perfect_map_has_an_aupro_of_one(case):
    _, masks = case
    assert pixel_metrics([mask.astype(np.float32) for mask in masks], masks).aupro == pytest.approx(1.0)


def test_pixel_auroc_counts_every_pixel_once(case):
    maps, masks = case
    good = np.concatenate([one[~mask] for one, mask in zip(maps, masks, strict=True)])
    bad = np.concatenate([one[mask] for one, mask in zip(maps, masks, strict=True)])
    wins = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
    assert pixel_metrics(maps, masks).pixel_auroc == pytest.approx(wins)


def test_image_metrics_of_a_perfect_order_are_one():
    found = image_metrics(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert (found.image_auroc, found.average_precision, found.f1_max) == (1.0, 1.0, pytest.approx(1.0))


def test_image_auroc_is_the_share_of_pairs_in_order():
    found = image_metrics(np.array([0.1, 0.5, 0.3, 0.9]), np.array([False, False, True, True]))
    assert found.image_auroc == 0.75
