"""The images themselves, built and run; minutes of work as root, so only ``make image-test`` asks for it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.images
@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("buildah", "debootstrap", "unshare"))),
    reason="takes root, and Debian's buildah and debootstrap",
)
def test_the_images_do_what_the_dockerfile_promises(request, tmp_path):
    chosen = request.config.getoption("--images-json") or tmp_path / "images.json"
    more = shlex.split(request.config.getoption("--images-with"))
    program = [sys.executable, ROOT / "bench/images.py", "--json", chosen, *more]
    done = subprocess.run(program, check=False)
    assert done.returncode == 0
    found = json.loads(Path(chosen).read_text())
    assert found["version_taken_up"]
    assert found["failed"] == 0 < found["requests"]
    assert found["read_only_root"]
    assert found["healthy"]
    assert found["user"] == "10001:10001"
    assert found["exit_code"] == 0
    assert not found["torch_in_service"]
    assert found["service_cpu_mb"] < 700
