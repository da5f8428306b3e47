import io
import struct
import warnings
from contextlib import suppress

import numpy as np
import pytest
from drawing import encode, good_part, make_png
from PIL import Image

from app import errors
from app.imaging.decode import Box, decode
from model.bundle import InputRecord

LIMIT = 50_000_000


def rule(**changes):
    plain = {"height": 64, "width": 64, "fit": "stretch", "channels": "rgb", "white_level": 255}
    return InputRecord(**{**plain, **changes})


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_every_accepted_format_decodes(file_format):
    picture = good_part(0).convert("RGB")
    image = decode(encode(picture, file_format), rule(), max_pixels=LIMIT)
    assert image.pixels.shape == (64, 64, 3)
    assert image.pixels.dtype == np.uint8
    assert (image.width, image.height) == picture.size


def test_empty_bytes_are_named_so():
    with pytest.raises(errors.EmptyImage):
        decode(b"", rule(), max_pixels=LIMIT)


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 5000, b"%PDF-1.7", b"GIF89a" + bytes(50)])
def test_what_is_no_accepted_image_is_refused(data):
    with pytest.raises(errors.NotAnImage):
        decode(data, rule(), max_pixels=LIMIT)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_an_image_cut_anywhere_is_an_image_error(file_format):
    data = encode(good_part(0).convert("RGB"), file_format)
    for end in range(1, len(data) - 20, max(1, len(data) // 60)):
        try:
            decode(data[:end], rule(), max_pixels=LIMIT)
        except errors.ImageError:
            continue
        # A few formats tolerate a cut in their last, unneeded bytes; none may swallow half an image.
        assert end > 0.9 * len(data)


def test_a_truncated_image_is_named_so():
    data = encode(good_part(0), "JPEG")
    with pytest.raises(errors.TruncatedImage):
        decode(data[: len(data) // 2], rule(), max_pixels=LIMIT)


def test_a_bomb_is_refused_by_its_header():
    data = make_png(30_000, 30_000)
    assert len(data) < 4000
    with pytest.raises(errors.ImageTooLarge):
        decode(data, rule(), max_pixels=LIMIT)


def test_an_image_above_the_limit_is_refused_with_its_size():
    with pytest.raises(errors.ImageTooLarge, match="96 x 80"):
        decode(encode(good_part(0)), rule(), max_pixels=96 * 80 - 1)


def test_an_animation_is_refused():
    frames = [good_part(seed) for seed in range(3)]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(errors.TooManyFrames, match="more than one frame"):
        decode(data, rule(), max_pixels=LIMIT)


def test_sixteen_bits_are_refused_where_eight_were_learned():
    deep = Image.fromarray(np.full((20, 30), 4095, dtype=np.uint16))
    with pytest.raises(errors.WrongBitDepth, match="16 bits"):
        decode(encode(deep), rule(), max_pixels=LIMIT)


def test_eight_bits_are_refused_where_twelve_were_learned():
    with pytest.raises(errors.WrongBitDepth, match="4095"):
        decode(encode(good_part(0)), rule(white_level=4095), max_pixels=LIMIT)


def test_deep_grey_is_scaled_by_the_white_level():
    deep = Image.fromarray(np.full((20, 30), 2048, dtype=np.uint16))
    image = decode(encode(deep), rule(white_level=4095), max_pixels=LIMIT)
    assert set(np.unique(image.pixels)) == {round(2048 / 4095 * 255)}


def png_with_deep_colour():
    """A 2 x 2 PNG of 16 bits a channel, which Pillow can read but not write."""
    row = b"\0" + 2 * struct.pack(">HHH", 1000, 2000, 3000)
    return make_png(2, 2, depth_bits=16, colour_type=2, rows=2 * row)


def test_deep_colour_is_refused_and_not_cut_to_eight_bits():
    with pytest.raises(errors.UnsupportedMode, match="16-bit colour"):
        decode(png_with_deep_colour(), rule(), max_pixels=LIMIT)


def test_cmyk_is_refused():
    data = encode(good_part(0).convert("CMYK"), "JPEG")
    with pytest.raises(errors.UnsupportedMode, match="CMYK"):
        decode(data, rule(), max_pixels=LIMIT)


def test_a_palette_image_is_judged_by_its_colours():
    colourful = Image.new("RGB", (30, 20), (200, 30, 60))
    plain = decode(encode(colourful), rule(), max_pixels=LIMIT)
    palette = decode(encode(colourful.convert("P", palette=Image.Palette.ADAPTIVE)), rule(), max_pixels=LIMIT)
    assert np.abs(plain.pixels.astype(int) - palette.pixels).max() <= 1


def test_an_opaque_alpha_channel_changes_nothing():
    picture = good_part(0).convert("RGB")
    plain = decode(encode(picture), rule(), max_pixels=LIMIT)
    opaque = decode(encode(picture.convert("RGBA")), rule(), max_pixels=LIMIT)
    assert np.array_equal(plain.pixels, opaque.pixels)


def test_a_transparent_image_is_refused():
    picture = good_part(0).convert("RGBA")
    picture.putalpha(128)
    with pytest.raises(errors.UnsupportedMode, match="transparent"):
        decode(encode(picture), rule(), max_pixels=LIMIT)


def test_a_rotated_jpeg_is_turned_upright():
    upright = good_part(0).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = encode(upright.rotate(90, expand=True), "JPEG", quality=100, exif=exif)
    image = decode(turned, rule(), max_pixels=LIMIT)
    expected = decode(encode(upright), rule(), max_pixels=LIMIT)
    assert (image.width, image.height) == upright.size
    assert np.abs(image.pixels.astype(int) - expected.pixels).mean() < 2


def test_a_grey_product_sees_colours_as_grey():
    image = decode(encode(Image.new("RGB", (30, 20), (250, 0, 0))), rule(channels="grey"), max_pixels=LIMIT)
    assert (image.pixels == image.pixels[..., :1]).all()


def test_letterbox_keeps_the_shape_and_repeats_the_edge():
    picture = Image.new("L", (100, 50), 77)
    image = decode(encode(picture), rule(fit="letterbox"), max_pixels=LIMIT)
    assert image.content == Box(0, 16, 64, 32)
    assert (image.pixels == 77).all()


def test_the_digest_is_of_the_posted_bytes():
    import hashlib

    data = encode(good_part(3))
    assert decode(data, rule(), max_pixels=LIMIT).sha256 == hashlib.sha256(data).hexdigest()


def test_a_polyglot_is_judged_as_the_image_it_begins_with():
    data = encode(good_part(0)) + b"<script>alert(1)</script>"
    assert decode(data, rule(), max_pixels=LIMIT).width == Image.open(io.BytesIO(data)).width


def test_a_bitmap_of_any_width_is_judged():
    """A width whose rows have a 16 in their length was once taken for 16-bit colour."""
    for width in (72, 720, 1616):
        data = encode(Image.new("RGB", (width, 4), (9, 9, 9)), "BMP")
        assert decode(data, rule(), max_pixels=LIMIT).width == width


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_damaged_image_is_judged_or_is_an_image_error(file_format):
    """One byte changed, many times: whatever Pillow raises, it is the sender's to mend."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(good_part(0).convert("RGB").resize((24, 20)), file_format, exif=exif)
    generator = np.random.default_rng(0)
    num_judged = 0
    for place in generator.integers(0, min(len(data), 300), 400):
        damaged = bytearray(data)
        damaged[place] ^= int(generator.integers(1, 256))
        with suppress(errors.ImageError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and goes on
            decode(bytes(damaged), rule(), max_pixels=LIMIT)
            num_judged += 1
    assert num_judged < 400  # some were refused, so the damage reached the decoder


def test_a_deep_image_beyond_the_white_level_is_refused():
    deep = Image.fromarray(np.full((20, 30), 60_000, dtype=np.uint16))
    with pytest.raises(errors.WrongBitDepth):
        decode(encode(deep), rule(white_level=4095), max_pixels=LIMIT)


def test_thirty_two_bits_are_refused():
    deep = Image.fromarray(np.full((20, 30), 2_000_000, dtype=np.int32))
    with pytest.raises(errors.UnsupportedMode):
        decode(encode(deep, "TIFF"), rule(white_level=4095), max_pixels=LIMIT)
