from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import kolmogi
from scipy.stats import ks_2samp

from app.inspection.drift import DriftMonitor, DriftResult, DriftRule, chance_distance, compare_scores, ks_distance

GENERATOR = np.random.default_rng(0)


def inspection(version, score):
    return SimpleNamespace(version=version, score=score)


def test_the_distance_is_scipys():
    for size in (20, 150):
        first, second = GENERATOR.normal(0, 1, size), GENERATOR.normal(0.4, 1.3, 90).round(1)
        assert ks_distance(first, second) == pytest.approx(ks_2samp(first, second).statistic)


def test_parts_that_have_not_drifted_raise_the_alarm_no_more_often_than_said():
    rule = DriftRule(window=100, false_alarm_rate=0.05, defect_share=0.0)
    calibration = [GENERATOR.normal(0, 1, 150) for _ in range(1000)]
    alarms = [compare_scores(GENERATOR.normal(0, 1, 100), scores, rule).has_drifted for scores in calibration]
    # 1,000 windows: the rate's own standard error at 0.05 is 0.007.
    assert np.mean(alarms) < 0.05 + 2 * 0.007


def test_the_assumed_share_of_defects_raises_no_alarm_and_twice_a_shift_does():
    rule = DriftRule(window=200, defect_share=0.05)
    calibration = GENERATOR.normal(0, 1, 150)
    with_defects = np.concatenate([GENERATOR.normal(0, 1, 190), np.full(10, 20.0)])
    assert not compare_scores(with_defects, calibration, rule).has_drifted
    assert compare_scores(GENERATOR.normal(1.0, 1, 200), calibration, rule).has_drifted


def test_the_limit_of_chance_is_the_quantile_of_kolmogorovs_distribution():
    """Of the distance times the root of ``n m / (n + m)``, for large samples."""
    for num_first, num_second, rate in ((1000, 150, 0.001), (100, 150, 0.001), (200, 190, 0.01)):
        expected = kolmogi(rate) / np.sqrt(num_first * num_second / (num_first + num_second))
        assert chance_distance(num_first, num_second, rate) == pytest.approx(expected, rel=1e-6)


def test_the_assumed_share_of_defects_is_added_to_the_limit_of_chance():
    recent, calibration = GENERATOR.normal(0, 1, 200), GENERATOR.normal(0, 1, 150)
    limits = {share: compare_scores(recent, calibration, DriftRule(defect_share=share)).limit for share in (0.0, 0.05)}
    assert limits[0.0] == pytest.approx(chance_distance(200, 150, DriftRule().false_alarm_rate))
    assert limits[0.05] == pytest.approx(limits[0.0] + 0.05)


def test_a_share_of_defects_that_is_not_assumed_is_drift():
    """With so many scores chance explains little, so it is the assumption alone that decides."""
    calibration = np.linspace(-2, 2, 20_000)
    with_defects = np.concatenate([np.linspace(-2, 2, 19_000), np.full(1000, 20.0)])
    assert compare_scores(with_defects, calibration, DriftRule(defect_share=0.0)).has_drifted
    assert not compare_scores(with_defects, calibration, DriftRule(defect_share=0.05)).has_drifted


def test_a_distance_that_the_limit_just_explains_is_no_drift():
    assert not DriftResult(distance=0.25, limit=0.25).has_drifted
    assert DriftResult(distance=0.26, limit=0.25).has_drifted


def test_each_score_is_tested_once_in_full_windows(tiny_version):
    drift = DriftMonitor(DriftRule(window=20))
    for _ in range(19):
        drift.add(inspection(tiny_version, 0.0))
    assert drift.get_window("disc").last is None
    drift.add(inspection(tiny_version, 0.0))
    assert drift.get_window("disc").last.distance > 0.5  # all alike: not what good parts score
    assert drift.get_window("disc").scores == []
    assert drift.get_window("nothing") is None


def test_another_version_starts_a_new_window(tiny_version):
    drift = DriftMonitor(DriftRule(window=20))
    for _ in range(25):
        drift.add(inspection(tiny_version, 0.0))
    drift.add(inspection(replace(tiny_version, name="another"), 0.0))
    assert (drift.get_window("disc").version, drift.get_window("disc").last) == ("another", None)
