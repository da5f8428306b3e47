import json
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from app.errors import CommandError
from training.data.dataset import find_images
from training.demo.sample_data import (
    CONTRASTS,
    DEFECTS,
    KINDS,
    NUM_IMAGES,
    choose_cuts,
    plan_items,
    render,
    to_defect_list,
    write_items,
    write_sample_data,
)
from training.demo.sample_part import CUTS, SIDE

SEED = 7
# The mask is drawn where a change passes 5 levels after smoothing over 3 pixels; a lone pixel may change by twice that.
UNMARKED_LEVELS = 12


def first(kind, contrast):
    return next(item for item in plan_items() if (item.kind, item.contrast) == (kind, contrast))


def one_of_each():
    """The first image of every folder."""
    paths = {item.path.rsplit("/", 1)[0]: item for item in reversed(plan_items())}
    return tuple(reversed(paths.values()))


@cache
def change_and_mask(kind, contrast):
    """How many levels the defect changes each pixel of the same part in the same shot, and where the mask is set."""
    item = first(kind, contrast)
    drawn, twin = render(item, seed=SEED), render(replace(item, kind="good"), seed=SEED)
    return np.abs(drawn.picture.astype(int) - twin.picture).max(axis=2), drawn.mask == 255


def write(folder, items, *, seed=SEED):
    write_items(folder, items, seed=seed, on_image=lambda _: None)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_set_is_100_good_to_train_on_40_good_and_15_defective_of_each_kind_to_test():
    assert Counter(item.path.rsplit("/", 1)[0] for item in plan_items()) == {
        "train/good": 100,
        "test/good": 40,
        "test/scratch": 15,
        "test/dent": 15,
        "test/missing_feature": 15,
        "test/foreign_particle": 15,
    }
    assert len({item.path for item in plan_items()}) == len({item.number for item in plan_items()}) == NUM_IMAGES == 200


def test_every_defective_image_is_listed_from_plain_to_barely_visible():
    rows = json.loads(to_defect_list(plan_items()))
    assert {row["path"] for row in rows} == {item.path for item in plan_items() if item.kind != "good"}
    for kind in KINDS:
        contrasts = [row["contrast"] for row in rows if row["kind"] == kind]
        assert (contrasts[0], contrasts[-1]) == (1.0, 0.1)
        assert contrasts == sorted(contrasts, reverse=True)


def test_what_is_written_is_a_dataset_with_masks_and_the_list_of_defects(tmp_path):
    items = one_of_each()
    write(tmp_path / "sample", items)
    dataset = find_images(tmp_path / "sample")
    assert len(dataset.good) == 1
    assert {sample.kind: sample.mask is not None for sample in dataset.test} == {"good": False} | dict.fromkeys(
        KINDS, True
    )
    assert json.loads((tmp_path / "sample" / DEFECTS).read_text()) == json.loads(to_defect_list(items))
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_pictures_are_rgb_and_masks_are_black_and_white_of_the_same_size(tmp_path):
    item = first("dent", 1.0)
    write(tmp_path / "sample", [item])
    with (
        Image.open(tmp_path / "sample" / item.path) as picture,
        Image.open(tmp_path / "sample" / item.mask_path) as mask,
    ):
        assert (picture.mode, picture.size, mask.mode, mask.size) == ("RGB", (SIDE, SIDE), "L", (SIDE, SIDE))
        assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_the_same_seed_gives_the_same_bytes_however_many_are_drawn(tmp_path):
    items = one_of_each()
    many, few = write(tmp_path / "many", items), write(tmp_path / "few", items[::-2])
    assert {name: many[name] for name in few if name != DEFECTS} == {
        name: data for name, data in few.items() if name != DEFECTS
    }


def test_another_seed_gives_other_images(tmp_path):
    items = one_of_each()[:2]
    ours, theirs = write(tmp_path / "ours", items), write(tmp_path / "theirs", items, seed=SEED + 1)
    assert all(ours[item.path] != theirs[item.path] for item in items)


@pytest.mark.parametrize("contrast", [CONTRASTS[0], CONTRASTS[-1]])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_marks_where_the_defect_changes_the_part_and_not_elsewhere(kind, contrast):
    change, mask = change_and_mask(kind, contrast)
    assert 5 <= mask.sum() <= 1000
    assert change[~mask].max() <= UNMARKED_LEVELS
    assert change[mask].mean() > 20 * change[~mask].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_defect_changes_much_more_than_a_faint_one_and_that_one_something(kind):
    plain, faint = (change_and_mask(kind, contrast)[0] for contrast in (CONTRASTS[0], CONTRASTS[-1]))
    assert plain.sum() > 4 * faint.sum()
    assert faint.max() >= 4


def test_a_good_part_has_nothing_marked():
    assert not render(first("good", 0.0), seed=SEED).mask.any()


def test_good_parts_vary_and_are_of_one_product():
    pictures = [render(item, seed=SEED).picture.astype(float) for item in plan_items()[:3]]
    for one, other in pairwise(pictures):
        assert np.abs(one - other).mean() > 2
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_a_good_part_is_neither_blown_out_nor_lost_in_the_dark():
    picture = render(first("good", 0.0), seed=SEED).picture
    assert np.mean(picture >= 250) < 0.01
    assert np.percentile(picture, 95) > 1.5 * picture.mean() > 3 * np.percentile(picture, 5)


def test_the_fainter_a_missing_feature_the_smaller_it_is():
    generator = np.random.default_rng(SEED)
    missing = [set(CUTS) - set(choose_cuts(contrast, generator)) for contrast in CONTRASTS]
    assert [len(cuts) for cuts in missing] == [1] * len(CONTRASTS)
    areas = [np.pi * cut.radius**2 + 4 * cut.radius * cut.half_length for (cut,) in missing[:-1]]
    assert areas == sorted(areas, reverse=True)
    (unfinished,) = set(choose_cuts(CONTRASTS[-1], generator)) - set(CUTS)
    assert unfinished.name in {cut.name for cut in CUTS}


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "notes.txt").write_text("mine")
    with pytest.raises(CommandError, match="sample already exists"):
        write_sample_data(tmp_path / "sample", seed=SEED, on_image=pytest.fail)
    assert [path.read_text() for path in tmp_path.rglob("*.*")] == ["mine"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "sample").write_text("mine")
    with pytest.raises(CommandError, match="not an empty folder"):
        write_sample_data(tmp_path / "sample", seed=SEED, on_image=pytest.fail)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "sample").mkdir()
    assert set(write(tmp_path / "sample", plan_items()[:1])) == {"train/good/000.png", DEFECTS}


def test_progress_is_reported_and_an_interrupted_run_leaves_nothing(tmp_path):
    advances = []

    def on_image(more):
        advances.append(more)
        if len(advances) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample_data(tmp_path / "sample", seed=SEED, on_image=on_image)
    assert advances == [1, 1, 1]
    assert list(tmp_path.iterdir()) == []
