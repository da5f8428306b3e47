"""What docs/integration.md and the client's page tell to type does what they say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import GOODPART, Service

from app.sinks.settings import read_sinks

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
INTEGRATION = ROOT / "docs/integration.md"
PAGES = {"docs/integration.md": "NAME", "clients/python/README.md": "flange"}


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, defective_bytes):
    (tmp_path / "part.png").write_bytes(defective_bytes)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER/a.png").write_bytes(defective_bytes)
    return tmp_path


@pytest.mark.parametrize(("page", "name"), PAGES.items())
def test_the_python_example_runs(page, name, store_folder, folder):
    (example,) = blocks(ROOT / page, "python")
    with Service(store_folder) as service:
        code = example.replace("127.0.0.1:8000", service.address).replace(f'"{name}"', '"disc"')
        program = f"import sys; sys.path.insert(0, {str(ROOT / 'clients/python')!r})\n{code}"
        done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict, score, threshold = done.stdout.split()
    assert verdict == "ng"
    assert float(score) > float(threshold)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not here")
def test_the_node_example_runs(store_folder, folder):
    (example,) = blocks(INTEGRATION, "javascript")
    with Service(store_folder) as service:
        code = example.replace("127.0.0.1:8000", service.address).replace('"NAME"', '"disc"')
        (folder / "line.js").write_text(code)
        done = subprocess.run(["node", "line.js"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    verdict, score, threshold = done.stdout.split()
    assert verdict == "ng"
    assert float(score) > float(threshold)


@pytest.mark.skipif(
    not (shutil.which("mcs") and shutil.which("mono")), reason="Mono (Debian: mono-mcs, mono-runtime) is not here"
)
def test_the_csharp_example_compiles_and_runs(store_folder, folder):
    (example,) = blocks(INTEGRATION, "csharp")
    with Service(store_folder) as service:
        code = example.replace("127.0.0.1:8000", service.address).replace('"NAME"', '"disc"')
        (folder / "line.cs").write_text(code)
        subprocess.run(["mcs", "-out:line.exe", "line.cs"], cwd=folder, check=True)
        done = subprocess.run(["mono", "line.exe"], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ng"), done.stderr


def test_what_is_typed_runs(store_folder, folder):
    lines = [
        line for block in blocks(INTEGRATION, "console") for line in block.replace("\\\n", "").splitlines() if line
    ]
    assert [shlex.split(line)[0] for line in lines] == ["curl", "goodpart"]
    with Service(store_folder) as service:
        curl, watch = (line.replace("NAME", "disc").replace("127.0.0.1:8000", service.address) for line in lines)
        done = subprocess.run(["curl", "--silent", *shlex.split(curl)[1:]], cwd=folder, capture_output=True, check=True)
    assert (json.loads(done.stdout)["verdict"], json.loads(done.stdout)["part_id"]) == ("ng", "0001")
    subprocess.run([GOODPART, *shlex.split(watch)[1:], "--once"], cwd=folder, capture_output=True, check=True)
    assert json.loads((folder / "results/a.png.json").read_text())["verdict"] == "ng"


def test_the_file_of_sinks_is_one(tmp_path):
    (example,) = blocks(INTEGRATION, "toml")
    path = tmp_path / "sinks.toml"
    path.write_text(example.replace("/keys/", f"{tmp_path}/"))
    for name in ("mes", "broker"):
        (tmp_path / name).write_text("secret\n")
    assert [sink.name for sink in read_sinks(path, instance="line-1")] == ["mes", "broker", "plc"]
