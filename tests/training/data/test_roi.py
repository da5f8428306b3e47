import numpy as np
import pytest
from drawing import encode, good_part
from PIL import Image, ImageDraw

from app.errors import SettingsError
from training.data.dataset import find_images
from training.data.roi import SIZE, read_region_of_interest
from training.errors import BadImage
from training.settings import read_train_settings


def rectangle_png(box):
    picture = Image.new("L", (100, 50))
    ImageDraw.Draw(picture).rectangle(box, fill=255)
    return encode(picture)


def settings(*assignments):
    return read_train_settings(None, assignments)


def test_everywhere_is_looked_at_by_default(tmp_path):
    assert read_region_of_interest(tmp_path, settings()) is None


def test_a_picture_beside_the_data_says_where_to_look(tmp_path):
    (tmp_path / "region.png").write_bytes(rectangle_png((0, 0, 49, 49)))
    found = read_region_of_interest(tmp_path, settings())
    assert found.inside[:, : SIZE[1] // 2].all()
    assert not found.inside[:, SIZE[1] // 2 :].any()


def test_rectangles_and_pictures_add_up_and_what_is_ignored_is_taken_off(tmp_path):
    (tmp_path / "ignore.png").write_bytes(rectangle_png((0, 0, 99, 24)))
    found = read_region_of_interest(
        tmp_path,
        settings("inspect=[{x: 0, y: 0, width: 0.5, height: 1}]", "ignore=[{x: 0, y: 0.75, width: 1, height: 0.25}]"),
    )
    expected = np.zeros(SIZE, bool)
    expected[SIZE[0] // 2 : SIZE[0] * 3 // 4, : SIZE[1] // 2] = True
    assert np.array_equal(found.inside, expected)


def test_ignoring_everything_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="every pixel is ignored"):
        read_region_of_interest(tmp_path, settings("ignore=[{x: 0, y: 0, width: 1, height: 1}]"))


def test_a_region_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "region.png").write_text("hello")
    with pytest.raises(BadImage, match=r"region\.png"):
        read_region_of_interest(tmp_path, settings())


def test_pictures_of_the_region_are_not_taken_for_parts(tmp_path):
    (tmp_path / "region.png").write_bytes(rectangle_png((0, 0, 9, 9)))
    (tmp_path / "part.png").write_bytes(encode(good_part(0)))
    assert [image.path.name for image in find_images(tmp_path).good] == ["part.png"]
