"""Commands of training: what they answer before they load what they compute with."""

import json
import subprocess
import sys

COMMANDS = ("adapt", "check-data", "demo", "model-info", "sample-data", "settings", "train", "train-all")
PROGRAM = """
import contextlib, json, sys
from app.cli.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["goodpart", *words]
    with contextlib.suppress(SystemExit):
        main()
print(json.dumps(list(sys.modules)))
"""
HEAVY = {"torch", "onnxruntime", "numpy", "PIL", "fastapi", "scipy", "matplotlib"}
WRONG = ["train", "--data", "absent", "--product", "p", "--store", "s", "--set", "typo=1"]


def test_a_wrong_setting_and_the_help_of_a_command_load_nothing_that_computes():
    """The imports are what takes the time: with ONNX Runtime, Pillow and FastAPI the error took four times as long."""
    lines = [WRONG, ["model-info", "--set", "typo=1"], *([name, "--help"] for name in COMMANDS)]
    program = [sys.executable, "-c", PROGRAM, json.dumps(lines)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["goodpart: error: unknown setting 'typo'; did you mean taps?"] * 2
    *output, modules = done.stdout.splitlines()
    assert [line.split()[2] for line in output if line.startswith("Usage: goodpart")] == list(COMMANDS)
    assert not HEAVY & set(json.loads(modules))
