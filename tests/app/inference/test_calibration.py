import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.calibration import compute_promise, min_calibration_parts, p_value, pack_scores, unpack_scores
from model.bundle import BundleError

SCORES = st.lists(st.floats(-5, 5), min_size=1, max_size=60).map(lambda rows: np.array(sorted(rows)))


def test_a_hundred_and_ninety_nine_parts_promise_one_in_a_hundred():
    given_promise = compute_promise(np.arange(199.0), asked=0.01)
    assert given_promise.supported == 0.01
    assert given_promise.threshold == 197.0  # the 198th smallest: 2 of 200 ranks lie above it


def test_too_few_parts_promise_what_they_can():
    given_promise = compute_promise(np.arange(9.0), asked=0.01)
    assert given_promise.supported == 0.1
    assert given_promise.threshold == 8.0


def test_the_number_of_parts_needed_is_the_least_that_supports_the_rate():
    for rate in (0.5, 0.1, 0.05, 0.01, 0.005):
        needed = min_calibration_parts(rate)
        assert compute_promise(np.arange(float(needed)), asked=rate).supported == rate
        if needed > 1:
            assert compute_promise(np.arange(float(needed - 1)), asked=rate).supported > rate


@given(SCORES, st.floats(0.001, 0.9))
def test_the_threshold_and_the_p_value_say_the_same(scores, asked):
    """A score that is ng has a p-value of at most the promised rate: one rule in two words."""
    made = compute_promise(scores, asked=asked)
    above = np.nextafter(made.threshold, np.inf)
    assert p_value(scores, above) <= made.supported + 1e-9


def test_the_promise_holds_on_fresh_parts():
    """Over many draws the mean false-alarm rate is at most what was promised; 0.006 is three standard errors."""
    generator = np.random.default_rng(0)
    rates = [
        (generator.normal(size=200) > compute_promise(generator.normal(size=99), asked=0.05).threshold).mean()
        for _ in range(400)
    ]
    assert np.mean(rates) < 0.05 + 0.006


def test_the_p_value_counts_the_part_itself():
    scores = np.array([1.0, 2.0, 3.0])
    assert p_value(scores, 2.5) == 0.5
    assert p_value(scores, 9.0) == 0.25
    assert p_value(scores, 0.0) == 1.0


def test_scores_survive_the_file():
    scores = np.array([0.5, -1.25, 3.0])
    assert np.array_equal(unpack_scores(pack_scores(scores)), scores)


@pytest.mark.parametrize("data", [b"", b"hello", pack_scores(np.array([np.nan])), pack_scores(np.array([]))])
def test_a_calibration_that_is_none_is_refused(data):
    with pytest.raises(BundleError, match=r"calibration\.npz"):
        unpack_scores(data)
