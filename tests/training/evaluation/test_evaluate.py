"""Figures of a test set, with the committed version of the first format."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from drawing import defective_part, encode, good_part
from PIL import Image
from scipy.stats import mannwhitneyu

from app.imaging.decode import Box
from app.inspection.pipeline import inspect
from training.data.dataset import Sample
from training.data.images import ImageFile, ImageSource
from training.errors import BadImage
from training.evaluation.evaluate import (
    MAX_SIDE_PX,
    EvaluationMetrics,
    TestScore,
    any_defect,
    compute_image_metrics,
    evaluate,
    evaluate_images,
    load_mask,
    open_mask,
    resize_map,
    to_test_score,
)
from training.evaluation.metrics import pixel_metrics

LIMIT = 10**6


def make_score(kind, score, *, threshold=1.0):
    return TestScore("x.png", kind, "0" * 64, score, "ng" if score > threshold else "ok")


SCORES = [make_score("good", value) for value in (0.1, 0.5, 0.9, 1.2)] + [
    make_score(kind, value) for kind, value in (("blot", 0.7), ("blot", 2.0), ("scratch", 3.0), ("scratch", 1.1))
]


def make_inspection(*, width, height, map_=None, canvas=(64, 64), content=Box(0, 0, 64, 64)):  # noqa: B008  # frozen
    image = SimpleNamespace(width=width, height=height, pixels=np.zeros((*canvas, 3), np.uint8), content=content)
    return SimpleNamespace(image=image, map=map_)


def open_file(path):
    return ImageFile(path, ImageSource(max_bytes=0))


def write_mask(path, *, size, box=None):
    mask = Image.new("L", size)
    if box:
        mask.paste(255, box)
    mask.save(path)
    return open_file(path)


@pytest.fixture
def samples(tmp_path):
    """Two good parts, and two with a blot that a mask marks."""
    found = []
    for number in range(4):
        is_bad = number >= 2
        path = tmp_path / f"{number}.png"
        path.write_bytes(encode(defective_part(number) if is_bad else good_part(number)))
        mask = write_mask(tmp_path / f"m{number}.png", size=(96, 80), box=(54, 24, 67, 37)) if is_bad else None
        found.append(Sample(open_file(path), "blot" if is_bad else "good", mask))
    return found


def run(version, samples, folder, function=evaluate):
    done = []
    figures = function(version, samples, folder=folder, max_pixels=LIMIT, on_image=done.append)
    assert done == [1] * len(samples)
    return figures


def test_error_rates_are_those_of_each_kind_at_the_threshold():
    figures = compute_image_metrics(SCORES)
    assert (figures.num_test_good, figures.num_test_defective) == (4, 4)
    assert (figures.false_alarm_rate, figures.escape_rate) == (0.25, 0.25)
    assert compute_image_metrics(SCORES[:5]).escape_rate == 1.0


def test_the_area_under_the_curve_is_that_of_the_rank_test():
    good, bad = ([one.score for one in SCORES if (one.kind == "good") is is_good] for is_good in (True, False))
    assert compute_image_metrics(SCORES).image_auroc == pytest.approx(mannwhitneyu(bad, good).statistic / 16)


def test_figures_that_need_the_other_kind_of_part_are_left_out():
    assert compute_image_metrics(SCORES[:4]) == EvaluationMetrics(4, 0, false_alarm_rate=0.25)
    assert compute_image_metrics(SCORES[4:]) == EvaluationMetrics(0, 4, escape_rate=0.25)


def test_a_test_set_is_evaluated_by_the_services_own_inspection(tiny_version, samples, tmp_path):
    figures = run(tiny_version, samples, tmp_path)
    inspections = [inspect(sample.image.read_bytes(), tiny_version, max_pixels=LIMIT) for sample in samples]
    scores = tuple(to_test_score(*pair, tmp_path) for pair in zip(samples, inspections, strict=True))
    assert scores[2] == TestScore(
        "2.png", "blot", inspections[2].image.sha256, inspections[2].score, inspections[2].verdict
    )
    masks = [load_mask(*pair) for pair in zip(samples, inspections, strict=True)]
    maps = [resize_map(one, mask.shape) for one, mask in zip(inspections, masks, strict=True)]
    expected = {**asdict(compute_image_metrics(scores)), **asdict(pixel_metrics(maps, masks))}
    assert asdict(figures) == {**expected, "test_scores": tuple(asdict(score) for score in scores)}
    assert figures.pixel_auroc > 0.9


def test_where_a_mask_is_missing_the_pixels_are_not_measured(tiny_version, samples, tmp_path):
    samples[3] = replace(samples[3], mask=None)
    figures = run(tiny_version, samples, tmp_path)
    assert (figures.pixel_auroc, figures.aupro, figures.num_test_defective) == (None, None, 2)


def test_good_parts_alone_have_no_pixel_figures(tiny_version, samples, tmp_path):
    assert run(tiny_version, samples[:2], tmp_path).pixel_auroc is None


def test_images_alone_have_the_figures_of_their_scores(tiny_version, samples, tmp_path):
    whole = run(tiny_version, samples, tmp_path)
    expected = replace(whole, pixel_auroc=None, aupro=None, test_scores=None)
    assert run(tiny_version, samples, tmp_path, evaluate_images) == expected
    assert expected.image_auroc is not None


def test_an_image_that_can_not_be_inspected_is_named(tiny_version, samples, tmp_path):
    samples[1].image.path.write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"1\.png"):
        run(tiny_version, samples, tmp_path)


def test_a_mask_is_that_of_the_image_pixel_by_pixel(tmp_path):
    mask = write_mask(tmp_path / "m.png", size=(96, 80), box=(10, 20, 30, 25))
    found = load_mask(Sample(mask, "blot", mask), make_inspection(width=96, height=80))
    expected = np.zeros((80, 96), bool)
    expected[20:25, 10:30] = True
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 100), (100, 512)), ((1024, 200), (100, 512)), ((300, 1024), (512, 150)), ((1024, 1), (1, 512))],
)
def test_a_mask_of_a_large_image_is_reduced(tmp_path, size, expected):
    mask = write_mask(tmp_path / "m.png", size=size, box=(0, 0, size[0] // 2, size[1]))
    inspection = make_inspection(width=size[0], height=size[1])
    found = load_mask(Sample(mask, "blot", mask), inspection)
    assert found.shape == load_mask(Sample(mask, "good"), inspection).shape == expected
    assert max(found.shape) == MAX_SIDE_PX
    assert found[:, : expected[1] // 2].all()
    assert not found[:, expected[1] // 2 :].any()


def test_a_mask_marks_every_level_that_is_not_black(tmp_path):
    Image.fromarray(np.array([[0, 1, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    mask = open_file(tmp_path / "m.png")
    found = load_mask(Sample(mask, "blot", mask), make_inspection(width=4, height=1))
    assert found.tolist() == [[False, True, True, True]]


def test_a_mask_of_another_size_or_that_can_not_be_read_is_refused(tmp_path):
    mask = write_mask(tmp_path / "m.png", size=(96, 80))
    with pytest.raises(BadImage, match="the mask is 96 x 80, but its image is 80 x 96"):
        open_mask(mask, size=(80, 96))
    mask.path.write_bytes(b"no image")
    with pytest.raises(BadImage, match="the mask can't be read"):
        open_mask(mask, size=(96, 80))
    with pytest.raises(BadImage, match="the mask can't be read"):
        open_mask(open_file(tmp_path / "absent.png"), size=(96, 80))


def test_a_map_is_enlarged_to_the_image_without_the_padding():
    """A 100 x 50 image lies in rows 16 to 47 of 64: rows 4 to 11 of the map."""
    map_ = np.full((16, 16), 9, np.float32)
    map_[4:12] = 1
    map_[4:12, 8:] = 2
    inspection = make_inspection(width=100, height=50, map_=map_, content=Box(0, 16, 64, 32))
    found = resize_map(inspection, (50, 100))
    assert found.shape == (50, 100)
    assert np.abs(found[10:40, 10:40] - 1).max() < 0.01
    assert np.abs(found[10:40, 60:90] - 2).max() < 0.01


def test_any_marked_pixel_of_any_mask_is_a_defect():
    nothing, one = np.zeros((2, 2), bool), np.eye(2, dtype=bool)
    assert any_defect([nothing, one])
    assert not any_defect([nothing, nothing])
    assert not any_defect([])
