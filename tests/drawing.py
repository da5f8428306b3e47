"""Parts drawn for tests: a grey disc under changing light, and defects on it."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 96, 80


def good_part(seed, *, size=(WIDTH, HEIGHT)):
    """A disc, a little off its place, with grain and a gradient of light; mode L."""
    generator = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width]
    centre = np.array([width / 2, height / 2]) + generator.normal(0, 1, 2)
    radius = 0.35 * min(size) + generator.normal(0, 0.5)
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    light = 12 * (x / width - 0.5) * generator.normal(0, 1)
    values = np.where(inside, 150, 60) + light + generator.normal(0, 4, (height, width))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def defective_part(seed, *, centre=(60, 30), size=(WIDTH, HEIGHT)):
    """A good part with a bright blot of 12 pixels at ``centre``."""
    picture = good_part(seed, size=size)
    x, y = centre
    ImageDraw.Draw(picture).ellipse((x - 6, y - 6, x + 6, y + 6), fill=250)
    return picture


def encode(picture, file_format="PNG", **options):
    """The picture's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def make_png(width, height, *, depth_bits=1, colour_type=0, rows=bytes(1000)):
    """A PNG with this header, whatever its rows hold; by default a bomb of less than a kilobyte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth_bits, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def write_mvtec(folder, *, num_train=40, num_test=4):
    """A small product in MVTec layout, masks and all."""
    kinds = {"train/good": num_train, "test/good": num_test, "test/blot": num_test}
    for kind, count in kinds.items():
        (folder / kind).mkdir(parents=True)
        for index in range(count):
            draw = defective_part if kind.endswith("blot") else good_part
            picture = draw(1000 * len(kind) + index)
            (folder / kind / f"{index:03}.png").write_bytes(encode(picture))
    masks = folder / "ground_truth" / "blot"
    masks.mkdir(parents=True)
    for index in range(num_test):
        mask = Image.new("L", (WIDTH, HEIGHT))
        ImageDraw.Draw(mask).ellipse((54, 24, 66, 36), fill=255)
        (masks / f"{index:03}_mask.png").write_bytes(encode(mask))
    return folder
