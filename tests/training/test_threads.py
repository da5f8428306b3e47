"""Threads of a training that shares its processors."""

import os
import subprocess
import sys

import pytest
import torch

from training.job import limit_threads

PROGRAM = """
import contextlib, os, sys
from app.cli.main import main
sys.argv = ["goodpart", "train", "--data", "absent", "--product", "p", "--store", "s", "--set", "typo=1"]
with contextlib.suppress(SystemExit):
    main()
print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    """It is set before torch is loaded, which is when OpenMP reads it; an error in a setting needs no torch."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert "unknown setting 'typo'" in done.stderr
    assert done.stdout.split() == ["False", expected]


def test_a_training_takes_no_more_threads_than_its_quota(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("training.job.available_cpus", lambda: 1)
    torch.set_num_threads(2)
    try:
        limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
