"""The findings of ``check-data`` as pictures on one HTML page that needs no network."""

from pathlib import Path

from app.errors import ImageError
from app.imaging.decode import MAX_PIXELS, load_image
from app.store.files import replace_file
from training.checks.checks import DataReport
from training.report.examples import to_thumbnail
from training.report.pages import render_page

MAX_SHOWN = 300


def write_contact_sheet(path: Path, found: DataReport) -> None:
    """Write the page, whole or not at all. Raises StoreUnusable."""
    everything = [*found.findings, *found.suspects]
    by_kind = {
        kind: [one for one in everything if one.kind == kind]
        for kind in dict.fromkeys(finding.kind for finding in everything)
    }
    page = render_page(
        "contact_sheet.html",
        title=f"{len(found.dataset.good)} good images: what was found",
        promise=found.promise,
        by_kind=by_kind,
        max_shown=MAX_SHOWN,
        read_thumbnail=read_thumbnail,
    )
    replace_file(path, page.encode())


def read_thumbnail(path: Path) -> str | None:
    """Return a thumbnail as JPEG in base64, or None where the image can't be decoded."""
    try:
        return to_thumbnail(load_image(path.read_bytes(), max_pixels=MAX_PIXELS))
    except (ImageError, OSError):
        return None
