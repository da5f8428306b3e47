"""Which one-place changes of a module its tests do not notice.

python bench/mutants.py [MODULE --tests PATH ...] [--sample N --seed S] [--json bench/results/mutants.json]

Each mutant is written into a copy of the packages, and its tests run there in a forked process, so that torch is
imported once. A mutant is killed where a test fails. Without MODULE, the modules of ``MODULES`` are tried.
"""

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
COPIED = ("app", "model", "training", "tests")
MODULES = """
app/history/cursors.py app/history/retention.py app/history/writer.py app/imaging/regions.py
app/inference/calibration.py app/inference/reconcile.py app/inspection/drift.py app/store/state_reader.py
model/adaptive.py model/bottleneck.py model/compare.py model/losses.py model/recall.py
model/similarity.py model/student.py training/evaluation/evaluate.py
training/evaluation/repeatability.py training/export/calibrate.py training/export/onnx.py
training/fit/checkpoint.py training/fit/distillation.py training/fit/memory.py training/fit/statistics.py
training/fit/trainer.py
"""
# The tests of what a path begins with, beside those of the same name as the module.
FURTHER_TESTS = {
    "app/history/": "tests/app/history/test_journal.py",
    "app/inference/reconcile.py": "tests/app/inference/test_registry.py",
    "model/": "tests/claims",
    "model/similarity.py": "tests/model/test_compare.py",
    "training/fit/distillation.py": "tests/claims",
    "training/fit/memory.py": "tests/claims",
}
# Imported before the first fork. Nothing of the project may be: each mutant imports its own.
PRELOADED = (
    "torch torch._dynamo onnxruntime scipy.ndimage scipy.stats hypothesis.extra.numpy jaxtyping beartype PIL.Image"
)
# Without plugins that nothing here needs. Random examples are the same each time; a failing one is not made smaller.
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "hypothesispytest", "--hypothesis-profile=mutants")
settings.register_profile("mutants", derandomize=True, deadline=None, database=None, phases=[Phase.generate])
# A mutant may never end: the limit of its tests, as a multiple of their time without a change, and at least.
LIMIT_FACTOR, MIN_LIMIT_S = 5, 20
# Decorators and annotations say what is checked elsewhere: types, frozen values, gradients that are not kept.
IGNORED_FIELDS = frozenset({"annotation", "returns", "decorator_list"})
# What takes the place of an operator: the same but for equality, and the opposite.
OPERATORS: dict[type[ast.AST], tuple[Any, ...]] = {
    ast.Lt: (ast.LtE(), ast.GtE()), ast.LtE: (ast.Lt(), ast.Gt()), ast.Gt: (ast.GtE(), ast.LtE()),
    ast.GtE: (ast.Gt(), ast.Lt()), ast.Eq: (ast.NotEq(),), ast.NotEq: (ast.Eq(),), ast.Is: (ast.IsNot(),),
    ast.IsNot: (ast.Is(),), ast.Add: (ast.Sub(),), ast.In: (ast.NotIn(),), ast.NotIn: (ast.In(),),  # codespell:ignore
    ast.Sub: (ast.Add(),), ast.Mult: (ast.Div(),), ast.Div: (ast.Mult(),), ast.FloorDiv: (ast.Mult(),),
    ast.And: (ast.Or(),), ast.Or: (ast.And(),),
}  # fmt: skip
Change = tuple[ast.expr | ast.stmt, str]


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed; ``before`` and ``after``: the lines of that place."""

    line: int
    before: str
    after: str
    source: str


def main() -> None:
    """Try the mutants, print a table and what survived, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="for example model/recall.py; default: many")
    parser.add_argument("--tests", nargs="+", help="files or folders; default: those that belong to the module")
    parser.add_argument("--sample", type=int, help="try only so many mutants of a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file in which the rows of these modules are replaced")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOADED.split():
        importlib.import_module(name)
    print(f"{'module':36} {'mutants':>8} {'killed':>8} {'timed_out':>10} {'survived':>9}")
    for module in given.modules or MODULES.split():
        row = try_module(module, given.tests or find_tests(module), sample=given.sample, seed=given.seed)
        print("{module:36} {mutants:8} {killed:8} {timed_out:10} {survived:9}".format(**row))
        for one in row["survivors"]:
            print(f"  {one['line']:>4}  {one['before']}\n     ->  {one['after']}", flush=True)
        if given.json:
            write_row(given.json, row)


def find_tests(module: str) -> list[str]:
    """Return the tests that belong to a module."""
    mirror = Path("tests", module).parent / f"test_{Path(module).name}"
    further = [tests for prefix, tests in FURTHER_TESTS.items() if module.startswith(prefix)]
    return [path for path in (str(mirror), *further) if (ROOT / path).exists()]


def try_module(module: str, tests: Sequence[str], *, sample: int | None, seed: int) -> dict[str, Any]:
    """Return how many mutants of a module its tests kill, and those that survive."""
    mutants = list(make_mutants((ROOT / module).read_text()))
    if sample is not None and sample < len(mutants):
        mutants = sorted(random.Random(seed).sample(mutants, sample), key=lambda one: one.line)  # noqa: S311  # no secret
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "pyproject.toml", Path(folder, "pyproject.toml"))
        began = time.monotonic()
        if not tests or run_tests(folder, tests, limit_s=None) != "survived":
            sys.exit(f"{module}: there are no tests, or they fail without a change: {' '.join(tests)}")
        limit_s = max(MIN_LIMIT_S, round(LIMIT_FACTOR * (time.monotonic() - began)))
        target = Path(folder, module)
        for compiled in target.parent.glob(f"__pycache__/{target.stem}.*"):
            compiled.unlink()  # Python compares size and second of a file, and two mutants may have both in common
        outcomes = []
        for mutant in mutants:
            target.write_text(mutant.source)
            outcomes.append(run_tests(folder, tests, limit_s=limit_s))
    counts = {outcome: outcomes.count(outcome) for outcome in ("killed", "timed_out", "survived")}
    survivors = [mutant for mutant, outcome in zip(mutants, outcomes, strict=True) if outcome == "survived"]
    places = [{"line": one.line, "before": one.before, "after": one.after} for one in survivors]
    return {"module": module, "mutants": len(mutants), **counts, "survivors": places}


def run_tests(folder: str, tests: Sequence[str], *, limit_s: int | None) -> str:
    """Run tests in a forked process: ``killed``, ``timed_out`` or ``survived``. Compiled files stay without a limit."""
    process = os.fork()
    if process == 0:
        run_forked(folder, tests, limit_s=limit_s)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return "timed_out"
    return "killed" if status else "survived"


def run_forked(folder: str, tests: Sequence[str], *, limit_s: int | None) -> None:
    """Run tests silently, and end this process with the code of pytest."""
    code = 1
    try:
        signal.alarm(limit_s or 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.path[0] = folder
        sys.dont_write_bytecode = limit_s is not None
        code = int(pytest.main([*OPTIONS, *tests]))
    finally:
        os._exit(code)


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Put the row of a module into a file, in place of the one it had."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = sorted([row, *(one for one in rows if one["module"] != row["module"])], key=lambda one: one["module"])
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def make_mutants(source: str) -> Iterator[Mutant]:
    """Yield every change of one place of a module, from top to bottom."""
    lines = source.encode().splitlines(keepends=True)  # the tree counts bytes
    for node, new in sorted(list_changes(ast.parse(source)), key=lambda pair: pair[0].lineno):
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        old = b"".join(lines[first:last])
        end = len(old) - len(lines[last - 1]) + (node.end_col_offset or 0)
        changed = old[: node.col_offset] + new.encode() + old[end:]
        whole = b"".join([*lines[:first], changed, *lines[last:]]).decode()
        before, after = (" ".join(text.decode().split()) for text in (old, changed))
        yield Mutant(node.lineno, before, after, whole)


def list_changes(node: ast.AST) -> Iterator[Change]:
    """Yield this node and those below it, with each text that may take their place."""
    if isinstance(node, ast.expr | ast.stmt):
        yield from ((node, new) for new in change(node))
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
        yield node.test, f"(not ({ast.unparse(node.test)}))"
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children if name not in IGNORED_FIELDS else ():
            # Nodes within an f-string have no place of their own before Python 3.12.
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from list_changes(child)


@singledispatch
def change(node: ast.AST) -> Iterator[str]:
    """Yield what may take the place of a node: another operator, constant or nothing."""
    if isinstance(node, ast.BoolOp):
        yield f"({ast.unparse(ast.BoolOp(OPERATORS[type(node.op)][0], node.values))})"
    if isinstance(node, ast.UnaryOp):
        yield f"({ast.unparse(node.operand)})"  # without its sign or its ``not``
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield "pass"


@change.register
def change_comparison(node: ast.Compare) -> Iterator[str]:
    """Move the bound by a hair, or reverse it."""
    for index, operator in enumerate(node.ops):
        for other in OPERATORS[type(operator)]:
            ops = [*node.ops[:index], other, *node.ops[index + 1 :]]
            yield f"({ast.unparse(ast.Compare(node.left, ops, node.comparators))})"


@change.register
def change_arithmetic(node: ast.BinOp) -> Iterator[str]:
    """Take the opposite operation; drop either term of a sum, or reverse the sign of a difference."""
    for other in OPERATORS.get(type(node.op), ()):
        yield f"({ast.unparse(ast.BinOp(node.left, other, node.right))})"
    if isinstance(node.op, ast.Add | ast.Sub):
        yield from (f"({ast.unparse(term)})" for term in (node.left, node.right))
    if isinstance(node.op, ast.Sub):
        yield f"({ast.unparse(ast.BinOp(node.right, node.op, node.left))})"


@change.register
def change_assignment(node: ast.AugAssign) -> Iterator[str]:
    """Take the opposite operation."""
    for other in OPERATORS.get(type(node.op), ()):
        yield ast.unparse(ast.AugAssign(node.target, other, node.value))


@change.register
def change_constant(node: ast.Constant) -> Iterator[str]:
    """Reverse a truth value; take one more or one less; halve what is no whole number."""
    match node.value:
        case bool():
            yield str(not node.value)
        case int():
            yield from (str(other) for other in (node.value + 1, node.value - 1) if other >= 0)
        case float():
            yield repr(node.value / 2 if node.value else 1.0)


if __name__ == "__main__":
    main()
