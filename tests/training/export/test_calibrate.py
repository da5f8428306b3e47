from types import SimpleNamespace

import numpy as np
import pytest

from app.inference.calibration import compute_promise
from training.export.calibrate import MIN_SPREAD, calibrate, to_affine

RAW = np.random.default_rng(0).normal(3.0, 0.5, 60)


def make_comparisons(raw):
    return [SimpleNamespace(score=float(score)) for score in raw]


def test_scores_of_the_calibration_parts_have_mean_0_and_spread_1():
    found = calibrate(make_comparisons(RAW), asked=0.05)
    mean = sum(RAW) / 60
    spread = (sum((score - mean) ** 2 for score in RAW) / 60) ** 0.5
    assert (found.score.mean, found.score.spread) == (pytest.approx(mean), pytest.approx(spread))
    np.testing.assert_allclose(found.scores, [(score - mean) / spread for score in RAW])
    assert abs(found.scores.mean()) < 1e-9
    assert found.scores.std() == pytest.approx(1)


def test_the_threshold_is_on_the_scale_of_the_scores_that_the_service_compares_with_it():
    """Of 60 parts and 5 %, three may lie above: those are the parts that the service would judge ng."""
    found = calibrate(make_comparisons(RAW), asked=0.05)
    judged_ng = [raw for raw in RAW if found.score.standardise(raw) > found.promise.threshold]
    assert sorted(judged_ng) == sorted(RAW)[-2:]
    assert found.promise == compute_promise(found.scores, asked=0.05)
    assert (found.promise.asked, found.promise.num_calibration) == (0.05, 60)


def test_a_part_as_bad_as_the_worst_but_one_is_ok_and_a_worse_one_ng():
    found = calibrate(make_comparisons([1.0, 2.0, 3.0, 4.0]), asked=0.4)
    assert found.score.standardise(3.0) == pytest.approx(found.promise.threshold)
    assert found.score.standardise(3.01) > found.promise.threshold


def test_parts_that_all_score_alike_have_a_scale_all_the_same():
    found = calibrate(make_comparisons([2.0] * 20), asked=0.1)
    assert found.score.spread == MIN_SPREAD
    assert found.scores.tolist() == [0.0] * 20
    assert to_affine(np.array([1.0, 1.0 + 1e-9])).spread == MIN_SPREAD
