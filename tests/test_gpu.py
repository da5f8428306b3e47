"""What only a GPU can show; `bench/gpu.sh` runs these on a machine that has one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawing import write_mvtec

from app.inference.sessions import Device, has_device
from app.inference.version import Loader
from app.inspection.pipeline import inspect
from app.store.store import Store

GOODPART = Path(sys.executable).with_name("goodpart")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_device("cuda"), reason="no NVIDIA GPU, or onnxruntime-gpu is not installed"),
]


def test_cuda_judges_as_the_cpu_does(store, tiny_version, good_bytes, defective_bytes):
    on_cuda = Loader(Device("cuda", 1)).load(store.load_bundle("disc", tiny_version.name))
    tolerance = tiny_version.manifest.golden_tolerance["float32"]
    for data in (good_bytes, defective_bytes):
        here, there = (inspect(data, version, max_pixels=10**6) for version in (tiny_version, on_cuda))
        assert abs(here.score - there.score) < tolerance
        assert np.abs(here.map - there.map).max() < tolerance


def test_training_on_cuda_publishes_a_version(tmp_path):
    data = write_mvtec(tmp_path / "data", num_train=60)
    settings = (
        "device=cuda",
        "teacher=efficientnet_lite0",
        "height=64",
        "width=64",
        "learning.num_steps=4",
        "false_alarm_rate=0.06",
    )
    chosen = [word for setting in settings for word in ("--set", setting)]
    command = [str(GOODPART), "train", "--data", str(data), "--product", "disc", "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "store").list_versions("disc") == [done.stdout.strip()]
