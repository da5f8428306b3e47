"""What the service counts, for Prometheus. Units are base units; no label takes what a client can choose freely."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.catalogue import Catalogue
from app.engine.inspector import Inspection, Inspector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SCORE_BUCKETS = (-2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
BATCH_BUCKETS = (1, 2, 4, 8)
STEPS = ("decode", "queue", "inference", "render")


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self, *, catalogue: Catalogue, inspector: Inspector) -> None:
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
        self._registry.register(Standings(catalogue, inspector))
        inspector.worker.on_batch = self._batches.observe

    def judged(self, inspection: Inspection) -> None:
        """Count one verdict, its score and its times."""
        product = inspection.version.product
        self._inspections.labels(product, inspection.verdict).inc()
        self._scores.labels(product).observe(inspection.score)
        for step in STEPS:
            self._steps.labels(step).observe(getattr(inspection.timings, step) / 1000)

    def refused(self, reason: str) -> None:
        """Count one problem by its slug, of which there are a few dozen."""
        self._refusals.labels(reason).inc()

    def exposed(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class Standings(Collector):
    """What is so at the moment of asking, read from memory."""

    def __init__(self, catalogue: Catalogue, inspector: Inspector) -> None:
        self._catalogue = catalogue
        self._inspector = inspector

    def collect(self) -> Iterable[Metric]:
        """In hand and waiting; which version serves each product, on which provider; which product has a fault."""
        yield GaugeMetricFamily("goodpart_images_in_hand", "Images admitted and not answered.",
                                value=self._inspector.num_in_hand)  # fmt: skip
        yield GaugeMetricFamily("goodpart_images_waiting", "Images that wait for the worker.",
                                value=self._inspector.worker.num_waiting)  # fmt: skip
        serving = InfoMetricFamily("goodpart_version", "Which version serves.", labels=["product"])
        faults = GaugeMetricFamily(
            "goodpart_fault", "1 where the activated version does not serve.", labels=["product"]
        )
        for standing in self._catalogue.standings():
            faults.add_metric([standing.product], float(standing.fault is not None))
            if standing.serving is not None:
                facts = {
                    "version": standing.serving.name,
                    "teacher": standing.serving.manifest.teacher.sha256[:16],
                    "provider": self._catalogue.provider,
                }
                serving.add_metric([standing.product], facts)
        yield serving
        yield faults
