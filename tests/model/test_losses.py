import torch

from model.losses import expected_distance_loss


def test_the_expected_distance_with_the_least_loss_is_the_mean_of_the_distances():
    distances = torch.tensor([0.1, 0.2, 0.6]).expand(1, 1, 3)
    everywhere = torch.ones(1, 1, 3)
    losses = {
        expected: expected_distance_loss(distances, torch.full_like(distances, expected), everywhere).item()
        for expected in (0.1, 0.2, 0.29, 0.3, 0.31, 0.6)
    }
    assert min(losses, key=losses.__getitem__) == 0.3


def test_positions_outside_do_not_count_for_expected_distances():
    distances = torch.tensor([0.1, 9.0]).expand(1, 1, 2)
    valid = torch.tensor([1.0, 0.0]).expand(1, 1, 2)
    expected = torch.full_like(distances, 0.1)
    alone = expected_distance_loss(distances[..., :1], expected[..., :1], valid[..., :1])
    torch.testing.assert_close(expected_distance_loss(distances, expected, valid), alone)


def test_an_expected_distance_does_not_pull_at_the_distance():
    distances = torch.full((1, 1, 2), 0.5, requires_grad=True)
    expected = torch.full((1, 1, 2), 0.2, requires_grad=True)
    expected_distance_loss(distances, expected, torch.ones(1, 1, 2)).backward()
    assert distances.grad is None
    assert expected.grad is not None
