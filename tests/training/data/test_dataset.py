import numpy as np
import pytest
from drawing import encode, good_part, write_mvtec

from model.bundle import InputRecord
from training.data.dataset import (
    compute_median_size,
    count_held_out,
    detect_channels,
    drop_bad_images,
    find_images,
    find_odd_sizes,
    min_good_images,
    split_images,
)
from training.data.images import ImageFile, ImageSource
from training.errors import BadImage, TrainingError

RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)


@pytest.fixture
def plain(tmp_path):
    for index in range(30):
        (tmp_path / f"{index:02}.png").write_bytes(encode(good_part(index)))
    return tmp_path


def test_a_plain_folder_is_all_good(plain):
    (plain / "notes.txt").write_text("not an image")
    dataset = find_images(plain)
    assert (len(dataset.good), dataset.test) == (30, ())


def test_mvtec_layout_has_a_test_set_with_masks(tmp_path):
    dataset = find_images(write_mvtec(tmp_path / "data"))
    assert len(dataset.good) == 40
    assert {(sample.kind, sample.is_defective, sample.mask is not None) for sample in dataset.test} == {
        ("good", False, False),
        ("blot", True, True),
    }


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(TrainingError, match=tmp_path.name):
        find_images(tmp_path)


def test_a_folder_of_folders_says_where_the_images_are(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "0.png").write_bytes(encode(good_part(0)))
    with pytest.raises(TrainingError, match="its folders good do: name the one with good parts"):
        find_images(tmp_path)


def test_images_beside_the_training_folder_are_not_passed_over(tmp_path):
    data = write_mvtec(tmp_path / "data")
    (data / "bad.png").write_bytes(encode(good_part(0)))
    with pytest.raises(TrainingError, match=r"1 images of its own \(bad\.png\) beside train/good"):
        find_images(data)


def test_defective_images_under_train_are_not_passed_over(tmp_path):
    data = write_mvtec(tmp_path / "data")
    (data / "test" / "blot").rename(data / "train" / "blot")
    with pytest.raises(TrainingError, match="move them to test/blot"):
        find_images(data)


def test_a_few_images_of_another_size_are_refused(plain):
    assert find_odd_sizes(find_images(plain).good, max_pixels=10**6) is None
    (plain / "odd.png").write_bytes(encode(good_part(0, size=(50, 40))))
    odd = find_odd_sizes(find_images(plain).good, max_pixels=10**6)
    said = str(odd.to_error())
    assert said.startswith("1 images are not 96 x 80 pixels like the rest: odd.png (50 x 40); remove them")


def test_bad_headers_and_odd_sizes_can_be_left_out_each_with_its_reason(plain):
    (plain / "odd.png").write_bytes(encode(good_part(0, size=(50, 40))))
    (plain / "text.png").write_bytes(b"hello")
    dataset, skipped = drop_bad_images(find_images(plain), max_pixels=10**6, is_size_free=False)
    assert len(dataset.good) == 30
    assert [line.rpartition("/")[2].partition(":")[0] for line in skipped] == ["text.png", "odd.png"]


def test_what_people_confirmed_as_ok_trains_and_nothing_else_and_what_they_said_is_ng_does_not_train(plain):
    paths = find_images(plain).good
    by_hash = split_images(paths)
    ok, ng = by_hash.calibrate[0], by_hash.calibrate[1]
    made = split_images(paths, ok=[ok], ng=[ng])
    assert made.confirmed == (ok,)
    assert ok in made.train
    assert ok not in made.calibrate + made.standardise
    assert ng not in made.train + made.calibrate + made.standardise


def test_images_that_vary_throughout_are_the_products_way(tmp_path):
    for index in range(9):
        (tmp_path / f"{index}.png").write_bytes(encode(good_part(0, size=(50 + index, 40))))
    good = find_images(tmp_path).good
    assert len(good) == 9
    assert find_odd_sizes(good, max_pixels=10**6) is None


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"there is no folder .*absent"):
        find_images(tmp_path / "absent")


def test_two_images_are_too_few(plain):
    with pytest.raises(TrainingError, match="2 different good images"):
        split_images(find_images(plain).good[:2])


def test_every_image_is_for_one_thing_and_a_rerun_splits_alike(plain):
    paths = find_images(plain).good
    first, second = split_images(paths), split_images(reversed(paths))
    assert first == second
    parts = [*first.train, *first.standardise, *first.calibrate]
    assert sorted(parts) == sorted(paths)


def test_identical_images_count_once(plain):
    (plain / "twin.png").write_bytes((plain / "00.png").read_bytes())
    made = split_images(find_images(plain).good)
    assert len(made.train) + len(made.standardise) + len(made.calibrate) == 30


@pytest.mark.parametrize(
    ("num_good", "expected"), [(761, (76, 152)), (100, (10, 20)), (60, (8, 20)), (40, (8, 8)), (12, (3, 2))]
)
def test_shares_are_those_of_the_design(num_good, expected):
    assert count_held_out(num_good) == expected


@pytest.mark.parametrize("num_calibrate", [1, 19, 20, 99, 199])
def test_as_many_good_images_are_needed_as_hold_out_so_many(num_calibrate):
    needed = min_good_images(num_calibrate)
    assert count_held_out(needed)[1] >= num_calibrate
    assert needed == 12 or count_held_out(needed - 1)[1] < num_calibrate


def test_a_text_file_named_png_is_named(plain):
    image = ImageFile(plain / "text.png", ImageSource())
    image.path.write_text("I am no image")
    with pytest.raises(BadImage, match=r"text\.png: these bytes are not an image"):
        image.decode(RULE, max_pixels=10**6)
    with pytest.raises(BadImage, match=r"text\.png"):
        detect_channels([image], max_pixels=10**6)


def test_a_product_is_grey_where_no_image_has_colours(plain):
    paths = find_images(plain).good
    assert detect_channels(paths, max_pixels=10**6) == "grey"
    (plain / "colour.png").write_bytes(encode(good_part(99).convert("RGB")))
    assert detect_channels(find_images(plain).good, max_pixels=10**6) == "rgb"


def test_pixels_are_those_of_the_service(plain):
    image = find_images(plain).good[0].decode(RULE, max_pixels=10**6)
    assert image.pixels.shape == (64, 64, 3)
    assert image.pixels.dtype == np.uint8


def test_the_median_size_of_images_is_that_of_each_side(tmp_path):
    for number, size in enumerate(((100, 50), (300, 40), (200, 60))):
        (tmp_path / f"{number}.png").write_bytes(encode(good_part(number, size=size)))
    assert compute_median_size(find_images(tmp_path).good, max_pixels=10**6) == (200, 50)
