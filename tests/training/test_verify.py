"""Which images a training calibrates with."""

from types import SimpleNamespace

from rich.console import Console

from training import job
from training.job import TrainingJob
from training.progress import ProgressReporter


def test_a_version_is_calibrated_on_images_that_are_neither_trained_on_nor_standardised_with(monkeypatch):
    split = SimpleNamespace(train=["t1", "t2"], standardise=["s"], calibrate=["c1", "c2", "c3"])
    reader = SimpleNamespace(decode_all=lambda images: iter([f"decoded {image}" for image in images]))
    seen = []

    def verify_parity(images, networks, detector, *, reader, on_image):
        seen.append((list(images), networks, detector, reader))
        on_image(3)
        return "result"

    monkeypatch.setattr(job, "verify_parity", verify_parity)
    training = TrainingJob(None, None, None, ProgressReporter(Console(quiet=True)))
    assert training.verify("networks", "detector", SimpleNamespace(split=split, reader=reader)) == "result"
    assert seen == [(["decoded c1", "decoded c2", "decoded c3"], "networks", "detector", reader)]
