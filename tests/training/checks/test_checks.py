import io
import shutil

import numpy as np
import pytest
from drawing import defective_part, encode, good_part, write_mvtec
from PIL import Image, ImageEnhance, ImageFilter
from rich.console import Console

from training.checks.checks import DataCheck
from training.checks.contact_sheet import write_contact_sheet
from training.checks.duplicates import compute_fingerprint, find_duplicates
from training.checks.outliers import OutlierScores, score_parts
from training.progress import ProgressReporter
from training.settings import read_train_settings

SETTINGS = read_train_settings(None, ["height=64", "width=64", "num_recall_items=300", "false_alarm_rate=0.06"])


@pytest.fixture(scope="module")
def sound_data(tmp_path_factory):
    return write_mvtec(tmp_path_factory.mktemp("data") / "disc", num_train=100)


@pytest.fixture
def data(sound_data, tmp_path):
    return shutil.copytree(sound_data, tmp_path / "disc")


def check(data, *, looks_for_outliers=False, settings=SETTINGS):
    return DataCheck(data, settings, ProgressReporter(Console(quiet=True))).run(looks_for_outliers=looks_for_outliers)


def kinds(found):
    return {(finding.path.name, finding.kind) for finding in found.findings}


def test_sound_data_has_no_finding_and_exit_code_0(data):
    found = check(data)
    assert (found.findings, found.promise, found.exit_code) == ((), None, 0)


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("text.png", b"hello", "unreadable", "not an image"),
        ("cut.png", encode(good_part(900))[:700], "unreadable", "truncated"),
        ("empty.png", b"", "unreadable", "empty"),
        ("cmyk.jpg", encode(good_part(901).convert("CMYK"), "JPEG"), "unreadable", "CMYK"),
        ("deep.png", encode(good_part(902).convert("I;16")), "unreadable", "bits"),
        ("small.png", encode(good_part(903, size=(40, 30))), "odd size", "40 x 30 pixels, the rest have 96 x 80"),
    ],
)
def test_what_stops_a_training_is_named_with_exit_code_1(data, name, content, kind, says):
    (data / "train/good" / name).write_bytes(content)
    found = check(data)
    (finding,) = (one for one in found.findings if one.level == "bad")
    assert (finding.path.name, finding.kind, found.exit_code) == (name, kind, 1)
    assert says in finding.says


@pytest.mark.parametrize(
    ("name", "picture", "kind"),
    [
        ("colour.png", good_part(904).convert("RGB"), "odd mode"),
        ("dark.png", ImageEnhance.Brightness(good_part(905)).enhance(0.3), "odd brightness"),
        ("blurred.png", good_part(906).filter(ImageFilter.GaussianBlur(4)), "odd sharpness"),
    ],
)
def test_findings_to_review_give_exit_code_3(data, name, picture, kind):
    (data / "train/good" / name).write_bytes(encode(picture))
    found = check(data)
    assert (name, kind) in kinds(found)
    assert found.exit_code == 3


def test_a_bad_test_image_is_named_too(data):
    (data / "test/blot/bad.png").write_bytes(b"hello")
    assert kinds(check(data)) == {("bad.png", "unreadable")}


def test_copies_within_the_good_ones_and_among_the_test_images_are_named(data):
    copy = Image.open(data / "train/good/000.png")
    (data / "train/good/copy.jpg").write_bytes(encode(copy, "JPEG", quality=98))
    smaller = ImageEnhance.Brightness(Image.open(data / "train/good/001.png")).enhance(1.05)
    (data / "test/good/again.png").write_bytes(encode(smaller))
    assert kinds(check(data)) == {("000.png", "near twin"), ("again.png", "test twin")}


def test_too_few_images_for_the_promise_are_reported_with_the_number_needed(data):
    settings = SETTINGS.model_copy(update={"false_alarm_rate": 0.01})
    found = check(data, settings=settings)
    assert found.promise.says == (
        "100 good images leave 20 to calibrate, which support 4.76%; 1.00% takes 99, of 493 good images in all"
    )
    assert found.exit_code == 3


def test_defects_among_the_good_ones_are_the_first_suspects(data):
    for seed in range(5):
        part = defective_part(910 + seed, centre=(35 + 6 * seed, 30 + 4 * seed))
        (data / "train/good" / f"defect{seed}.png").write_bytes(encode(part))
    found = check(data, looks_for_outliers=True)
    first = [suspect.path.name for suspect in found.suspects[:6]]
    assert sum(name.startswith("defect") for name in first) == 5
    assert len(found.suspects) < 20


def test_copies_are_twins_and_parts_that_lie_alike_are_none():
    looks = [compute_fingerprint(index, good_part(index)) for index in range(20)]
    assert find_duplicates(looks) == []
    copy = Image.open(io.BytesIO(encode(good_part(3), "JPEG", quality=98)))
    (pair,) = find_duplicates([*looks, compute_fingerprint("copy", copy)])
    assert (pair.first, pair.second) == (3, "copy")


def test_suspects_are_those_above_the_limit_the_oddest_first():
    assert OutlierScores(np.array([0.1, 3.0, 1.9, 2.5]), limit=2.0).suspects == [1, 3]


def test_two_parts_with_the_same_oddity_do_not_vouch_for_each_other_once_they_are_not_trusted():
    import torch

    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(1, 8, 4, 4, generator=generator)
    parts = pattern + 0.1 * torch.randn(32, 8, 4, 4, generator=generator)
    oddity = 2 * torch.randn(8, generator=torch.Generator().manual_seed(1))
    parts[:2, :, 1, 1] = oddity + 0.1 * torch.randn(2, 8, generator=generator)
    settings = SETTINGS.model_copy(update={"num_recall_items": 100})
    trusted = torch.arange(2, 32)
    scores = score_parts(parts, torch.ones(32, 4, 4), trusted, settings, on_images=lambda _: None)
    assert set(np.argsort(-scores)[:2]) == {0, 1}


def test_the_contact_sheet_shows_each_finding_and_needs_no_network(data, tmp_path):
    (data / "train/good/text.png").write_bytes(b"hello")
    (data / "train/good/dark.png").write_bytes(encode(ImageEnhance.Brightness(good_part(905)).enhance(0.3)))
    sheet = tmp_path / "sheet.html"
    write_contact_sheet(sheet, check(data))
    page = sheet.read_text()
    assert "text.png: " in page
    assert "dark.png: " in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/jpeg;base64,") >= 1
