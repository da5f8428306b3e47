"""Results of the parity check, joined, and what is kept of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.export import parity
from training.export.calibration_features import NO_OWNER
from training.export.onnx import Parity
from training.export.parity import ParityResult, drop_features, join_results, verify_parity


def make_result(number, *, score=0.0, map_=0.0):
    features = tuple(torch.full((1, *size), float(number)).half() for size in ((2, 2, 2), (1, 4, 4)))
    valid = [np.full((8, 8), number, np.float32)]
    return ParityResult([f"comparison {number}"], valid, features, Parity(1, score, map_))


def test_joined_results_are_in_order_and_as_bad_as_the_worst():
    found = join_results([make_result(1, score=0.2), make_result(2, map_=0.3), make_result(3, score=0.1, map_=0.1)])
    assert found.comparisons == ["comparison 1", "comparison 2", "comparison 3"]
    assert [one[0, 0] for one in found.valid] == [1, 2, 3]
    assert [scale[:, 0, 0, 0].tolist() for scale in found.features] == [[1, 2, 3], [1, 2, 3]]
    assert found.parity == Parity(3, 0.2, 0.3)


def test_a_result_without_features_keeps_all_else():
    found = drop_features(make_result(1, score=0.2))
    assert [len(scale) for scale in found.features] == [0, 0]
    assert (found.comparisons, found.parity) == (["comparison 1"], Parity(1, 0.2, 0.0))


def test_no_item_comes_from_a_calibration_part_and_only_kept_parts_are_valid():
    whole = join_results([make_result(1), make_result(2), drop_features(make_result(3))])
    kept = whole.to_calibration_features(num_items=4)
    assert len(kept) == 2
    assert kept.owners.tolist() == [NO_OWNER] * 4
    assert kept.valid[:, 0, 0].tolist() == [1, 2]
    assert [scale[:, 0, 0, 0].tolist() for scale in kept.features] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("limit", "num_kept"), [(2, 2), (3, 3), (9, 3)])
def test_every_image_is_verified_and_the_features_of_the_first_are_kept(monkeypatch, limit, num_kept):
    monkeypatch.setattr(parity, "MAX_KEPT_PARTS", limit)
    monkeypatch.setattr(parity, "verify_image", lambda number, *_, **__: make_result(number))
    done = []
    found = verify_parity(iter([1, 2, 3]), None, None, reader=SimpleNamespace(), on_image=done.append)
    assert done == [1, 1, 1]
    assert found.parity.num_images == len(found.comparisons) == 3
    assert found.features[0][:, 0, 0, 0].tolist() == [1, 2, 3][:num_kept]
