"""Image files: read once while they fit into memory, and named by the error where they can't be read."""

import hashlib

import pytest
from drawing import encode, good_part
from opened import count_opened

from model.bundle import InputRecord
from training.data.images import ImageHeader, ImageSource, open_files
from training.errors import BadImage

RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)
MAX_PIXELS = 10**6


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(good_part(index)))
    return paths


def use_twice(images):
    """Everything that a training reads of an image, twice."""
    for _ in range(2):
        for image in images:
            image.read_digest()
            image.read_header(max_pixels=MAX_PIXELS)
            image.decode(RULE, max_pixels=MAX_PIXELS)
            image.read_bytes()


def test_each_file_is_read_once_whatever_is_asked_of_it(paths, tmp_path):
    with count_opened(tmp_path) as opened:
        use_twice(open_files(paths, ImageSource()))
    assert opened == dict.fromkeys(paths, 1)


def test_beyond_the_budget_the_first_files_stay_in_memory_and_the_others_are_read_again(paths, tmp_path):
    source = ImageSource(max_bytes=sum(path.stat().st_size for path in paths[:2]))
    with count_opened(tmp_path) as opened:
        use_twice(open_files(paths, source))
    assert opened == {paths[0]: 1, paths[1]: 1, paths[2]: 5, paths[3]: 5}, "digest and header in one, and two by two"


def test_the_facts_are_those_of_the_file(paths):
    (image, *_) = open_files(paths, ImageSource())
    assert image.read_bytes() == paths[0].read_bytes()
    assert image.read_digest() == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert image.read_header(max_pixels=MAX_PIXELS) == ImageHeader("L", (96, 80))


@pytest.mark.parametrize(
    ("content", "max_pixels", "message"),
    [
        (b"hello", MAX_PIXELS, "0.png: these bytes are not an image"),
        (b"", MAX_PIXELS, r"0.png: the image is empty \(0 bytes\)"),
        (encode(good_part(0)), 96 * 80 - 1, "0.png: the image has 96 x 80 pixels; the limit is 7,679"),
    ],
)
def test_a_bad_header_is_named_by_its_file(paths, content, max_pixels, message):
    paths[0].write_bytes(content)
    (image, *_) = open_files(paths, ImageSource())
    image.read_digest()
    with pytest.raises(BadImage, match=message):
        image.read_header(max_pixels=max_pixels)


def test_a_file_that_is_gone_is_named(tmp_path):
    (image,) = open_files([tmp_path / "absent.png"], ImageSource())
    for use in (image.read_digest, lambda: image.decode(RULE, max_pixels=MAX_PIXELS)):
        with pytest.raises(BadImage, match=r"absent\.png: No such file or directory"):
            use()


def test_images_are_equal_and_ordered_by_their_path(paths):
    first, second = (open_files(paths, ImageSource()) for _ in range(2))
    assert first == second
    assert sorted([first[2], first[0]]) == [second[0], second[2]]
