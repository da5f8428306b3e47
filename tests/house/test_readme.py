"""What README and docs name must be there."""

import re
from pathlib import Path

import pytest
from click import Group

from app.cli import commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_goodpart_command_in_the_readme_exists_with_its_options():
    assert isinstance(commands, Group)
    for line in re.findall(r"^\.venv/bin/goodpart (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        name, *words = line.split()
        command = commands.get_command(None, name)
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_every_decision_of_the_design_page_exists():
    for name in re.findall(r"docs/decisions/[\w-]+\.md", (ROOT / "docs/design.md").read_text()):
        assert (ROOT / name).is_file(), name
