"""docs/service.md tells of every setting, and its figures are those of bench/results."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_its_writer_makes_of_the_settings_and_the_results():
    specification = importlib.util.spec_from_file_location("service_page", ROOT / "bench" / "service_page.py")
    writer = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(writer)
    page = (ROOT / "docs" / "service.md").read_text()
    assert writer.written(page) == page
