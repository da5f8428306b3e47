"""The findings of ``check-data`` as pictures on one HTML page that needs no network."""

import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path

from app.errors import ImageError
from app.imaging.decode import MAX_PIXELS, load_image
from app.store.files import replace_file
from training.checks.checks import DataReport, Finding
from training.report.examples import to_thumbnail

MAX_SHOWN = 300
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.4 system-ui;max-width:75rem;margin:2rem auto;padding:0 1rem}}
figure{{display:inline-block;margin:.4rem;width:200px;vertical-align:top}}figcaption{{font-size:.8rem}}
img{{max-width:100%}}.none{{width:200px;height:100px;background:#eee}}</style>
<h1>{title}</h1>{sections}</html>
"""


def write_contact_sheet(path: Path, found: DataReport) -> None:
    """Write the page, whole or not at all. Raises StoreUnusable."""
    everything = [*found.findings, *found.suspects]
    by_kind = {
        kind: [one for one in everything if one.kind == kind]
        for kind in dict.fromkeys(finding.kind for finding in everything)
    }
    sections = "".join(render_section(kind, findings) for kind, findings in by_kind.items())
    promise = f"<p>{escape(found.promise.says)}</p>" if found.promise else ""
    title = f"{len(found.dataset.good)} good images: what was found"
    replace_file(path, PAGE.format(title=title, sections=promise + (sections or "<p>Nothing.</p>")).encode())


def render_section(kind: str, findings: Sequence[Finding]) -> str:
    """Render one kind of finding."""
    pictures = "".join(render_figure(one) for one in itertools.islice(findings, MAX_SHOWN))
    more = f"<p>and {len(findings) - MAX_SHOWN} more</p>" if len(findings) > MAX_SHOWN else ""
    return f"<h2>{escape(kind)} ({len(findings)})</h2>{pictures}{more}"


def render_figure(finding: Finding) -> str:
    """Render one finding, with its image if that can be decoded."""
    try:
        picture = to_thumbnail(load_image(finding.path.read_bytes(), max_pixels=MAX_PIXELS))
        shown = f'<img alt="{escape(finding.path.name)}" src="data:image/jpeg;base64,{picture}">'
    except (ImageError, OSError):
        shown = '<div class="none"></div>'
    return f"<figure>{shown}<figcaption>{escape(finding.path.name)}: {escape(finding.says)}</figcaption></figure>"
