"""The job itself runs in ``tests/test_end_to_end.py``; here: what is left on disk is all that a service needs."""

import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from app.inspection.pipeline import inspect
from app.inference.sessions import Device
from app.inference.version import Loader
from app.store.store import Store
store = Store(Path(sys.argv[1]))
(name,) = store.list_versions("disc")
version = Loader(Device("cpu", 1)).load(store.load_bundle("disc", name))
print(inspect(Path(sys.argv[2]).read_bytes(), version, max_pixels=10**6).verdict)
print("torch" in sys.modules or "training" in sys.modules)
"""


def test_a_bundle_on_disk_judges_in_a_process_without_the_trainer(store_folder, tmp_path, defective_bytes):
    image = tmp_path / "part.png"
    image.write_bytes(defective_bytes)
    command = [sys.executable, "-c", PROGRAM, str(store_folder), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ng", "False"]


def test_the_trainer_is_installed_as_an_extra_of_its_own():
    from importlib.metadata import requires

    needs = requires("goodpart")
    assert any(need.startswith("torch") and "extra == 'train'" in need for need in needs)
    assert not any(need.startswith("torch") and "extra" not in need for need in needs)
