"""Reading images for a training, and what their features say of valid positions."""

import numpy as np
import pytest
import torch
from drawing import encode, good_part
from torch import nn

from app.imaging.decode import decode
from app.imaging.roi import RegionOfInterest
from app.inference.detector import make_batch
from model.bundle import InputRecord
from training.data.images import ImageSource, open_files
from training.data.reader import ImageReader
from training.errors import BadImage
from training.fit import features
from training.fit.feature_store import MemoryLimit
from training.fit.features import extract_features, resize_valid

STRETCH = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)
LETTERBOX = STRETCH.model_copy(update={"fit": "letterbox"})


class Mean(nn.Module):
    """The mean of each patch, at two strides; it notes the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.batches = []

    def forward(self, pixels):
        self.batches.append(len(pixels))
        planes = pixels.permute(0, 3, 1, 2).float()
        return tuple(nn.functional.avg_pool2d(planes, stride) for stride in (16, 8))


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(good_part(number, size=(96, 48 + 8 * number))))
    return open_files(paths, ImageSource())


def make_reader(rule=STRETCH, roi=None):
    return ImageReader(rule=rule, max_pixels=10**6, map_size=(16, 16), roi=roi, num_workers=2)


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_features_are_the_teachers_row_by_row(paths, monkeypatch, batch_size):
    monkeypatch.setattr(features, "BATCH_SIZES", {"cpu": batch_size})
    teacher, reader, done = Mean(), make_reader(), []
    found = extract_features(teacher, paths, reader=reader, limit=MemoryLimit(10**9, None), on_images=done.append)
    assert teacher.batches == done == {1: [1] * 5, 2: [2, 2, 1], 9: [5]}[batch_size]
    for row, image in enumerate(paths):
        expected = teacher(reader.to_pixels([decode(image.read_bytes(), STRETCH, max_pixels=10**6)]))
        for scale, own in zip(found, expected, strict=True):
            torch.testing.assert_close(scale[row], own[0])


def test_no_image_has_no_features():
    found = extract_features(Mean(), [], reader=make_reader(), limit=MemoryLimit(10**9, None), on_images=lambda _: None)
    assert found == ()


def test_valid_positions_are_those_of_the_services_batches(paths):
    inside = np.zeros((10, 10), bool)
    inside[:, :5] = True
    for rule, roi in ((STRETCH, None), (LETTERBOX, None), (LETTERBOX, RegionOfInterest(inside, is_blanked=True))):
        valid = make_reader(rule, roi).compute_valid(paths)
        images = [decode(one.read_bytes(), rule, max_pixels=10**6) for one in paths]
        np.testing.assert_array_equal(valid.numpy(), make_batch(images, map_size=(16, 16), roi=roi).valid)


def test_where_images_are_stretched_one_speaks_for_all(paths):
    paths[1].path.write_bytes(b"no image")
    assert make_reader().compute_valid(paths).shape == (5, 16, 16)
    with pytest.raises(BadImage, match=r"1\.png"):
        make_reader(LETTERBOX).compute_valid(paths)


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_position_is_valid_where_at_least_half_of_it_is(is_shared):
    valid = torch.zeros(1, 4, 4)
    valid[0, :2, :2] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    valid[0, 2:, 2:] = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    valid[0, :2, 2:] = 1
    valid = valid.expand(3, 4, 4) if is_shared else valid.repeat(3, 1, 1)
    coarse, same = resize_valid(valid, (torch.zeros(3, 5, 2, 2), torch.zeros(3, 2, 4, 4)))
    assert coarse.tolist() == [[[1, 1], [0, 0]]] * 3
    assert torch.equal(same, valid)
    assert (coarse.stride(0) == 0) is is_shared
