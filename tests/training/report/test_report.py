from dataclasses import replace

from metrics import make_metrics

from model.bundle import PromiseRecord
from training.evaluation.evaluate import EvaluationMetrics, TestScore
from training.evaluation.repeatability import Repeat
from training.release.gate import Check, GateResult
from training.report.report import ReportContent, compute_interval, describe_promise, render_report
from training.version_metrics import IncumbentMetrics


def promise(asked, supported, num_calibration):
    return PromiseRecord(asked=asked, supported=supported, num_calibration=num_calibration, threshold=1.0)


def test_a_supported_promise_is_reported_as_requested():
    assert describe_promise(promise(0.05, 0.05, 40)).endswith("of 5.00%, as asked.")


def test_a_promise_that_fails_says_how_many_parts_it_takes():
    said = describe_promise(promise(0.01, 1 / 21, 20))
    assert "4.76%, not the 1.00% that was asked" in said
    assert said.endswith("that takes 99, of 493 good images in all.")


INCUMBENT = EvaluationMetrics(num_test_good=50, num_test_defective=20, image_auroc=0.95)
SCORES = (TestScore("a.png", "good", "a" * 64, 0.1, "ok"), TestScore("b.png", "blot", "b" * 64, 5.0, "ng"))
METRICS = make_metrics(
    evaluation=replace(INCUMBENT, image_auroc=0.9731, false_alarm_rate=0.02, escape_rate=0.25, test_scores=SCORES),
    repeatability=[Repeat("noise", 12, 0.2, 0.6, 1)],
    before=IncumbentMetrics(INCUMBENT, ()),
    gate=GateResult((Check("promise", passed=False, says="1 % was <asked>"),), "20261125t000000z-00000000"),
    curves={"learning: loss": [(1, 0.5), (2, 0.4)], "learning: held_out": [(2, 0.45)]},
)


def test_the_report_is_one_file_that_needs_no_network_and_says_what_was_found():
    page = render_report(ReportContent("disc", METRICS, calibration=[0.0, 1.0, -1.0], threshold=1.5))
    assert "escapes)</th><td>25.00% (8.66% to 49.10% at 95% confidence)" in page
    assert "0.9731; in service 0.9500" in page
    assert "did not pass the gate" in page
    assert "1 % was &lt;asked&gt;" in page
    assert "1 of 12 verdicts flip" in page
    assert page.count("data:image/svg+xml;base64,") == 3, "scores, ROC, one course"
    assert 'src="http' not in page
    assert "href=" not in page


def test_the_interval_is_the_exact_one_of_clopper_and_pearson():
    """0 of 30: the upper end solves (1 - p)^30 = 0.025."""
    low, high = compute_interval(0.0, 30)
    assert low == 0
    assert abs((1 - high) ** 30 - 0.025) < 1e-9
