"""Statements of README and docs are true, and their commands work."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import goodpart

from app.cli.main import commands

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
GOODPART = Path(sys.executable).with_name("goodpart")
# So that the README's own training takes seconds; every word of its line is still typed.
SMALL = tuple(
    word
    for setting in ("teacher=efficientnet_lite0", "height=64", "width=64", "false_alarm_rate=0.06", "quick=true")
    for word in ("--set", setting)
)


def list_commands(text):
    """Every command line of a page."""
    return [line for block in CONSOLE.findall(text) for line in block.splitlines() if line]


def targets():
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_line_to_type_is_a_make_target_or_a_command_that_is_run_below():
    for line in list_commands(README):
        first = shlex.split(line)[0]
        assert first in {"make", ".venv/bin/goodpart", "curl"}, line
        if first == "make":
            assert shlex.split(line)[1] in targets(), line


@pytest.mark.processes
def test_the_readmes_commands_work_as_typed(tmp_path, monkeypatch):
    """Learn, inspect, doctor, serve, curl: in the README's order, but for the service, which must run first."""
    from drawing import defective_part, encode, write_mvtec

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    monkeypatch.chdir(tmp_path)
    write_mvtec(tmp_path / "DATA", num_train=60)
    (tmp_path / "part.png").write_bytes(encode(defective_part(5)))
    lines = {shlex.split(line)[1]: line for line in list_commands(README) if line.startswith(".venv/bin/goodpart")}
    curl = next(line for line in list_commands(README) if line.startswith("curl"))
    assert set(lines) == {"train", "serve", "inspect", "doctor"}

    def run(line, *more):
        words = shlex.split(line.replace("NAME", "disc"))
        return goodpart(*words[1:], *more)

    trained = run(lines["train"], *SMALL)
    assert trained.returncode == 0, trained.stderr
    inspected = run(lines["inspect"])
    assert inspected.returncode == 0, inspected.stderr
    assert (tmp_path / "maps" / "part.png.heatmap.png").is_file()
    examined = run(lines["doctor"], "--port", "0")
    assert examined.returncode == 0, examined.stdout
    command = [str(GOODPART), *shlex.split(lines["serve"])[1:], "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as service:
        url = next(line for line in service.stderr if "listening on" in line).split()[-1]
        words = shlex.split(curl.replace("NAME", "disc").replace("http://127.0.0.1:8000", url))
        answer = subprocess.run([*words, "--silent"], capture_output=True, text=True, check=True).stdout
        service.terminate()
        service.communicate()
    assert json.loads(answer)["verdict"] == "ng"
    assert set(json.loads(answer)) == set(json.loads((ROOT / "docs" / "answer.json").read_text()))


def test_the_answer_in_the_readme_is_the_one_that_was_given():
    shown = re.search(r"^```json\n(.*?)^```", README, re.MULTILINE | re.DOTALL).group(1)
    assert json.loads(shown) == json.loads((ROOT / "docs" / "answer.json").read_text())


def tree():
    """The README's tree: every path that it names, with its comment."""
    block = README.split("## Layout\n\n```\n")[1].split("```")[0]
    folder = ""
    for line in block.splitlines():
        name, comment = line.strip().split(maxsplit=1)
        is_inner = line.startswith(" ")
        folder = folder if is_inner else name
        yield (folder + name if is_inner else name), comment


def test_the_readmes_tree_is_the_tree():
    named = dict(tree())
    for path, comment in named.items():
        assert (ROOT / path).exists(), path
        assert comment
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {f"{path.split('/')[0]}/" if "/" in path else path for path in kept}
    unnamed = {path for path in top if not path.startswith(".")} - set(named) - {"README.md"}
    assert not unnamed


def test_every_option_in_the_readme_exists():
    for line in list_commands(README):
        name, *words = shlex.split(line)
        if name == ".venv/bin/goodpart":
            known = {option for parameter in commands.get_command(None, words[0]).params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known


def test_every_decision_of_the_design_page_exists():
    for name in re.findall(r"docs/decisions/[\w-]+\.md", (ROOT / "docs/design.md").read_text()):
        assert (ROOT / name).is_file(), name
