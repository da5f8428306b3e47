import numpy as np
import pytest
import torch

from model.fusion import OTHER_SCALES_WEIGHT, MemoryView, QueryFusion, average_neighbours, resize


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    return QueryFusion((6, 5, 4), query_channels=3)


@pytest.fixture
def view():
    view = MemoryView(6)
    view.standardiser.mean.normal_()
    view.standardiser.spread.uniform_(0.5, 2)
    return view


def slow_mean(feature, y, x):
    """The mean of the 3 x 3 positions around a position, as many as there are."""
    return feature[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean((1, 2))


def slow_query(view, fusion, first, coarse, fine):
    """Each scale at the first one's size, divided by the root of its channels, joined, then one linear layer."""
    mean, spread = view.standardiser.mean.numpy(), view.standardiser.spread.numpy()
    weight = fusion.projection.weight.detach().numpy()[:, :, 0, 0]
    query = np.zeros((len(first), len(weight), *first.shape[2:]))
    for batch, y, x in np.ndindex(first.shape[0], *first.shape[2:]):
        shrunk = fine[batch, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
        joined = [(slow_mean(first[batch], y, x) - mean) / spread, coarse[batch, :, y, x], shrunk]
        shares = (1, OTHER_SCALES_WEIGHT, OTHER_SCALES_WEIGHT)
        scaled = [share * one / np.sqrt(len(one)) for share, one in zip(shares, joined, strict=True)]
        query[batch, :, y, x] = weight @ np.concatenate(scaled)
    return query


def test_the_query_is_the_slow_query(view, fusion, features):
    grown = resize(features[1], (4, 6))
    expected = slow_query(view, fusion, *(scale.double().numpy() for scale in (features[0], grown, features[2])))
    np.testing.assert_allclose(fusion(*view(features)).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_every_scale_of_the_teacher_changes_the_query(view, fusion, features, scale):
    changed = tuple(feature + (k == scale) for k, feature in enumerate(features))
    assert not torch.allclose(fusion(*view(features)), fusion(*view(changed)))


def test_the_projection_keeps_what_varies_most(fusion):
    """Features that vary along three directions are distinguished by three channels, others are not."""
    torch.manual_seed(1)
    directions = torch.linalg.qr(torch.randn(15, 15)).Q
    fused = torch.randn(200, 3) @ directions[:, :3].mT + 0.001 * torch.randn(200, 15)
    fusion.fit(fused)
    kept = fusion.projection.weight[:, :, 0, 0]
    queries = fused @ kept.mT
    torch.testing.assert_close(queries.square().sum(1).mean(), torch.tensor(3.0), atol=0.02, rtol=0)
    assert (kept @ directions[:, 3:]).abs().max() < 0.01 * kept.abs().max()


def test_a_smaller_scale_is_interpolated_to_the_querys_size():
    assert resize(torch.randn(1, 3, 2, 2), (4, 6)).shape == (1, 3, 4, 6)


def test_averaging_takes_the_neighbours_that_are_there():
    feature = torch.randn(1, 2, 3, 4)
    found = average_neighbours(feature)
    for y, x in np.ndindex(3, 4):
        np.testing.assert_allclose(found[0, :, y, x].numpy(), slow_mean(feature[0].numpy(), y, x), atol=1e-6)
