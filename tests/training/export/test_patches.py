import io

import numpy as np
import torch
from drawing import encode, good_part
from PIL import Image

from model.bundle import InputRecord
from training.data.images import ImageFile, ImageSource
from training.data.reader import ImageReader
from training.export.patches import SIDE_PX, render_patch, render_patches
from training.fit.memory import ItemOrigins

RULE = InputRecord(height=64, width=64, fit="stretch", channels="grey", white_level=255)


def open_jpeg(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_a_patch_is_centred_on_its_position():
    """A white square where the position is: the patch is white in its middle and black at its rim."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[32:48, 16:32] = 255
    shown = open_jpeg(render_patch(pixels, 2 * 4 + 1, stride=16))
    assert shown.shape == (SIDE_PX, SIDE_PX, 3)
    assert shown[SIDE_PX // 2, SIDE_PX // 2].min() > 200
    assert shown[2].max() < 60
    assert shown[:, -3].max() < 60


def test_every_item_has_the_picture_of_its_own_image_and_place(tmp_path):
    source, reader = ImageSource(), ImageReader(RULE, max_pixels=10**6, map_size=(16, 16))
    images = [ImageFile(tmp_path / f"{index}.png", source) for index in range(2)]
    for index, image in enumerate(images):
        image.path.write_bytes(encode(good_part(index)))
    origins = ItemOrigins(torch.tensor([1, 0, 1]), torch.tensor([5, 5, 9]))
    done = []
    pictures = render_patches(images, origins, reader=reader, stride=16, on_images=done.append)
    assert sum(done) == 2
    canvases = [reader.decode(image).pixels for image in images]
    expected = [render_patch(canvases[image], place, stride=16) for image, place in ((1, 5), (0, 5), (1, 9))]
    assert pictures == expected
    assert len(set(pictures)) == 3
