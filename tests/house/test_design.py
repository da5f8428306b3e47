"""Rules of the house that no linter knows."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from model.bundle import GoodpartError

ROOT = Path(__file__).parents[2]
CLAIMS = [f"c{number:02}" for number in range(1, 14)]
HEAVY = ("torch", "training", "onnx", "sklearn", "scipy", "model.student", "model.teacher")


def test_the_service_imports_neither_torch_nor_training():
    """In a fresh interpreter, since import-linter misses what an ``__init__`` does."""
    program = "import app.main, app.cli.main, sys; print('\\n'.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = set(output.splitlines())
    assert "app.main" in loaded
    assert not loaded & set(HEAVY)


def test_help_imports_no_torch():
    program = """
import contextlib, sys
from app.cli.main import main
sys.argv = ["goodpart", "--help"]
with contextlib.suppress(SystemExit):
    main()
print("torch" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False"


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_a_test_that_names_it(claim):
    assert list((ROOT / "tests" / "claims").glob(f"test_{claim}_*.py"))


@pytest.mark.parametrize("name", ["app.errors", "app.store.errors", "app.api.problems", "training.errors"])
def test_every_error_of_ours_has_one_root(name):
    module = importlib.import_module(name)
    ours = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert [error for error in ours if error.__module__ == name and not issubclass(error, GoodpartError)] == []


def test_importing_a_module_does_nothing_but_define():
    """Work starts in ``create_app()`` or ``main()``: no bare call stands at the top of a module."""
    for package in ("app", "model", "training"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                assert not is_call, f"{path}:{node.lineno}"


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc", "manager"])
def test_no_module_is_a_drawer_for_everything(name):
    assert not [path for path in ROOT.glob("*/**/*.py") if path.stem == name and ".venv" not in path.parts]


def test_model_init_is_empty():
    assert (ROOT / "model" / "__init__.py").read_text() == ""
