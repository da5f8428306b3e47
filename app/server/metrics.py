"""Prometheus metrics. Units are base units; no label takes a value that a client chooses freely."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app.history.journal import Journal
from app.inference.registry import ModelRegistry, ReloadOutcome
from app.inspection.drift import DriftMonitor
from app.inspection.inspector import Inspector
from app.inspection.pipeline import Inspection
from app.inspection.shadow import ShadowRunner
from app.sinks.outbox import Outbox

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SCORE_BUCKETS = (-2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
BATCH_BUCKETS = (1, 2, 4, 8)
STEPS = ("decode", "queue", "inference", "render")


class Metrics:
    """Counters of one service, in a registry of their own. Its methods are the listeners of the other components."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._inspections = Counter(
            "goodpart_inspections", "Images judged.", ["product", "verdict"], registry=self._registry
        )
        self._refusals = Counter(
            "goodpart_refusals", "Requests not answered with a verdict.", ["reason"], registry=self._registry
        )
        self._steps = Histogram(
            "goodpart_step_seconds", "Time a step of an inspection took.", ["step"],
            buckets=STEP_BUCKETS_S, registry=self._registry,
        )  # fmt: skip
        self._scores = Histogram(
            "goodpart_score", "Scores; 0 is the mean of good calibration parts, 1 their spread.", ["product"],
            buckets=SCORE_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._batches = Histogram(
            "goodpart_batch_images", "Images run as one batch.", buckets=BATCH_BUCKETS, registry=self._registry
        )
        self._reloads = Counter(
            "goodpart_reloads", "Versions read to be loaded.", ["product", "outcome"], registry=self._registry
        )

    def register(self, collector: Collector) -> None:
        """Collect the metrics of a collector too, on each scrape."""
        self._registry.register(collector)

    def count_inspection(self, inspection: Inspection) -> None:
        """Count one inspection, its score and its times."""
        product = inspection.version.product
        self._inspections.labels(product, inspection.verdict).inc()
        self._scores.labels(product).observe(inspection.score)
        for step in STEPS:
            self._steps.labels(step).observe(getattr(inspection.timings, step) / 1000)

    def count_refusal(self, reason: str) -> None:
        """Count one problem by its slug, of which there are a few dozen."""
        self._refusals.labels(reason).inc()

    def count_batch(self, num_images: int) -> None:
        """Count the images that ran as one batch."""
        self._batches.observe(num_images)

    def count_reload(self, product: str, outcome: ReloadOutcome) -> None:
        """Count one version that was read to be loaded."""
        self._reloads.labels(product, outcome).inc()

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(frozen=True, eq=False)  # prometheus-client keeps collectors by identity
class StateCollector(Collector):
    """Collects the current state from memory."""

    registry: ModelRegistry
    inspector: Inspector
    shadows: ShadowRunner
    drift: DriftMonitor
    journal: Journal | None = None
    outboxes: Sequence[Outbox] = ()

    def collect(self) -> Iterable[Metric]:
        """Yield images in flight and waiting, serving versions, errors, drift and candidates."""
        yield make_gauge("goodpart_images_in_hand", "Images admitted and not answered.", self.inspector.num_in_flight)
        yield make_gauge(
            "goodpart_images_waiting", "Images that wait for the worker.", self.inspector.batcher.num_waiting
        )
        has_error = float(self.registry.error is not None)
        yield make_gauge(
            "goodpart_store_trouble", "1 where the store does not answer: decisions may be old.", has_error
        )
        if self.journal is not None:
            lost = CounterMetricFamily("goodpart_records_lost", "Inspection records lost because the disk failed.")
            lost.add_metric([], self.journal.num_lost)
            yield lost
        sinks = GaugeMetricFamily("goodpart_sink_trouble", "1 where delivery to a sink fails.", labels=["sink"])
        backlog = GaugeMetricFamily("goodpart_sink_owed", "Results not yet delivered to a sink.", labels=["sink"])
        for outbox in self.outboxes:
            sinks.add_metric([outbox.sink.name], float(outbox.error is not None))
            backlog.add_metric([outbox.sink.name], outbox.backlog)
        yield from (sinks, backlog)
        yield from self._versions()
        yield from self._drift()
        yield from self._shadows()

    def _versions(self) -> Iterable[Metric]:
        serving = InfoMetricFamily("goodpart_version", "Which version serves.", labels=["product"])
        faults = GaugeMetricFamily(
            "goodpart_fault", "1 where the activated version does not serve.", labels=["product"]
        )
        thresholds = GaugeMetricFamily("goodpart_threshold", "A score above this is ng.", labels=["product"])
        for status in self.registry.list_statuses():
            serving_name = status.serving.name if status.serving else None
            is_other = status.error is not None and serving_name != status.activated
            faults.add_metric([status.product], float(is_other))
            if status.serving is not None:
                facts = {
                    "version": status.serving.name,
                    "teacher": status.serving.manifest.teacher.sha256[:16],
                    "provider": status.serving.detector.provider,
                }
                serving.add_metric([status.product], facts)
                thresholds.add_metric([status.product], status.serving.threshold)
        yield from (serving, faults, thresholds)

    def _drift(self) -> Iterable[Metric]:
        distance = GaugeMetricFamily(
            "goodpart_drift_distance", "Between scores of late and calibration scores, 0 to 1.", labels=["product"]
        )
        drifted = GaugeMetricFamily(
            "goodpart_drifted", "1 where that is more than chance and the assumed defects explain.", labels=["product"]
        )
        for status in self.registry.list_statuses():
            window = self.drift.get_window(status.product)
            if window is not None and window.last is not None:
                distance.add_metric([status.product], window.last.distance)
                drifted.add_metric([status.product], float(window.last.has_drifted))
        yield from (distance, drifted)

    def _shadows(self) -> Iterable[Metric]:
        judged = CounterMetricFamily(
            "goodpart_shadow_inspections", "Live images a candidate judged too, and how.", labels=["product", "outcome"]
        )
        rate = GaugeMetricFamily(
            "goodpart_shadow_disagreement_ratio", "Share of them with another verdict.", labels=["product"]
        )
        for status in self.registry.list_statuses():
            stats = self.shadows.get_stats(status)
            if stats is None:
                continue
            judged.add_metric([status.product, "agreed"], stats.judged - stats.num_disagreed)
            judged.add_metric([status.product, "ng_by_candidate_only"], stats.ng_by_candidate_only)
            judged.add_metric([status.product, "ng_by_serving_only"], stats.ng_by_serving_only)
            judged.add_metric([status.product, "failed"], stats.failed)
            judged.add_metric([status.product, "skipped"], stats.skipped)
            if stats.disagreement_rate is not None:
                rate.add_metric([status.product], stats.disagreement_rate)
        yield from (judged, rate)


def make_gauge(name: str, words: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, words, value=value)
