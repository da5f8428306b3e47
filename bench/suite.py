"""The test suite by itself: seconds, number of tests, coverage, and test lines per code line.

``python bench/suite.py`` runs ``make test``, ``make test-all`` and ``.ci/run`` one after the other on an idle machine
and writes ``bench/results/tests.json``.
"""

import json
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "tests.json"
CODE = ("app", "model", "training")


def run(*command: str) -> tuple[float, str]:
    """Run a command in the project; return its seconds and output. Raises CalledProcessError."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return round(time.perf_counter() - began, 1), done.stdout


def count_tests(output: str) -> int:
    """Return how many tests passed, over all runs of pytest in an output."""
    return sum(int(number) for number in re.findall(r"(\d+) passed", output))


def count_lines(*folders: str) -> int:
    """Return the lines of code: neither blank nor comments alone."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = [line.strip() for path in paths for line in path.read_text().splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def read_coverage(output: str) -> float:
    """Return the percentage that coverage's report ends with."""
    return float(re.findall(r"^TOTAL.*?(\d+(?:\.\d+)?)%", output, re.MULTILINE)[-1])


def main() -> None:
    """Run and write."""
    test_s, output = run("make", "test")
    num_tests = count_tests(output)
    all_s, output = run("make", "test-all")
    num_tests_all = count_tests(output)
    ci_s, output = run(".ci/run")
    figures = {
        "test_s": test_s,
        "test_all_s": all_s,
        "ci_s": ci_s,
        "num_tests": num_tests,
        "num_tests_all": num_tests_all,
        "coverage_percent": read_coverage(output),
        "test_lines_per_code_line": round(count_lines("tests") / count_lines(*CODE), 2),
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
