from dataclasses import replace

import numpy as np
from drawing import encode, good_part
from metrics import make_metrics

from app.imaging.roi import RegionOfInterest
from training.evaluation.sensitivity import (
    CONTRASTS,
    KINDS,
    SIZES,
    Cell,
    count_defects,
    find_smallest,
    make_inspected_mask,
    measure_sensitivity,
    open_parts,
)
from training.report.plots import render_sensitivity
from training.report.report import ReportContent, render_report


def row(found, *, kind="spot", contrast=1.0, drawn=10):
    return [Cell(kind, size, contrast, number, drawn) for size, number in zip(SIZES, found, strict=True)]


def test_the_smallest_found_is_where_all_larger_ones_are_found_too():
    assert find_smallest(row([0, 9, 10, 10, 10]), kind="spot", contrast=1.0) == SIZES[1]
    assert find_smallest(row([10, 8, 10, 10, 10]), kind="spot", contrast=1.0) == SIZES[2]
    assert find_smallest(row([10, 10, 10, 10, 5]), kind="spot", contrast=1.0) is None


def test_other_kinds_and_contrasts_do_not_count():
    cells = [*row([0, 0, 0, 0, 10]), *row([10] * 5, kind="scratch"), *row([10] * 5, contrast=0.5)]
    assert find_smallest(cells, kind="spot", contrast=1.0) == SIZES[-1]


def test_every_kind_size_and_contrast_is_tried_on_real_verdicts(tiny_version):
    parts = [encode(good_part(100 + index)) for index in range(2)]
    done = []
    cells = measure_sensitivity(tiny_version, parts, seed=0, max_pixels=10**6, on_defect=done.append)
    assert sum(done) == sum(cell.num_drawn for cell in cells) == count_defects(2)
    assert {(cell.kind, cell.size, cell.contrast) for cell in cells} == {
        (kind, size, contrast) for kind in KINDS for size in SIZES for contrast in CONTRASTS
    }
    plain = [cell.num_found for cell in cells if (cell.kind, cell.contrast, cell.size) == ("spot", 1.0, SIZES[-1])]
    assert plain == [2]


def test_defects_lie_where_the_part_is_looked_at(tiny_version):
    """With the lower left quarter alone looked at, a plain defect is still found: it is drawn there."""
    inside = np.zeros((80, 96), dtype=bool)
    inside[40:, :48] = True
    version = replace(tiny_version, roi=RegionOfInterest(inside))
    part = good_part(100)
    rows, columns = np.nonzero(make_inspected_mask(version, part))
    assert (rows.min(), columns.max()) == (40, 47)
    cells = measure_sensitivity(version, [encode(part)] * 6, seed=0, max_pixels=10**6, on_defect=lambda _: None)
    (plain,) = (cell for cell in cells if (cell.kind, cell.contrast, cell.size) == ("spot", 1.0, SIZES[-1]))
    assert plain.num_found >= 5


def test_large_parts_are_tried_at_a_smaller_size():
    (picture,) = open_parts([encode(good_part(1, size=(3000, 1500)))], max_pixels=10**7)
    assert picture.size == (1024, 512)


def test_parts_that_are_not_8_bit_are_not_tried(tiny_version):
    deep = encode(good_part(1).convert("I;16"))
    assert measure_sensitivity(tiny_version, [deep], seed=0, max_pixels=10**6, on_defect=lambda _: None) == ()


def render(cells):
    content = ReportContent("disc", make_metrics(sensitivity=cells), calibration=[0.0, 1.0], threshold=1.0)
    return render_report(content)


def test_the_report_draws_a_chart_a_kind_and_says_the_smallest():
    cells = [cell for contrast in CONTRASTS for cell in row([0, 0, 10, 10, 10], contrast=contrast)]
    page = render(cells)
    assert page.count("<figcaption>spot</figcaption>") == 1
    assert "spot 8%" in page
    assert render_sensitivity(cells) == render_sensitivity(cells), "the same figure has the same bytes"


def test_a_report_without_trials_says_nothing_of_them():
    assert "Synthetic defects" not in render([])
