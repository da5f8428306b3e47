import numpy as np
import torch

from training.fit.memory import EXPLAINED_COSINE, ItemOrigins, k_center_greedy, select_unexplained


def origins(*images):
    return ItemOrigins(torch.tensor(images), torch.zeros(len(images), dtype=torch.long))


def slow_farthest(points, first, count):
    chosen = [first]
    while len(chosen) < count:
        gaps = [max(point @ points[other] for other in chosen) for point in points]
        chosen.append(int(np.argmin(gaps)))
    return chosen


def test_each_point_is_the_farthest_from_those_before_it():
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(40, 5), dim=-1)
    chosen = k_center_greedy(points, 10, generator=torch.Generator().manual_seed(3)).tolist()
    assert chosen == slow_farthest(points.numpy(), chosen[0], 10)
    assert len(set(chosen)) == 10


def test_all_points_are_chosen_where_there_are_few():
    points = torch.eye(4)
    assert k_center_greedy(points, 9, generator=torch.Generator()).tolist() == [0, 1, 2, 3]


def test_an_image_that_all_items_came_from_recalls_them():
    assert not origins(3, 3).find_own_items(torch.tensor([3])).any()


def test_an_image_does_not_recall_its_own_items():
    taken = origins(0, 1, 1, 2)
    assert taken.find_own_items(torch.tensor([1, 2])).tolist() == [
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_points_are_added_until_a_key_explains_each():
    points = torch.nn.functional.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    inside = torch.arange(30) != 7
    keys = points[:2]
    (first, *rest) = (chosen := select_unexplained(points, keys, inside, max_chosen=99).tolist())
    gaps = (points @ keys.mT).amax(1).where(inside, torch.tensor(1.0))
    assert first == int(gaps.argmin())
    assert 7 not in chosen
    known = torch.cat([keys, points[chosen]])
    assert ((points[inside] @ known.mT).amax(1) >= EXPLAINED_COSINE).all()
    assert len(set(chosen)) == len(chosen)
    assert select_unexplained(points, keys, inside, max_chosen=3).tolist() == [first, *rest[:2]]
