"""The bytes of an image file as pixels of 8 bits: turned, laid over white, scaled and brought to a size as they promise."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from dsara_lib.pixels import FORMATS, decoded

DEEP = np.array([[0, 128, 129, 257], [1000, 4095, 32768, 65535]], dtype=np.uint16)
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **LOSSLESS.get(format, {}), **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> Image.Image:
    """Like a photograph: all of it survives JPEG and a smaller size."""
    return Image.fromarray(noise(5, 5)).resize((width, height), Image.Resampling.BICUBIC)


# -- orientation -------------------------------------------------------------------------------------------------------

# Where the top left pixel of the stored image stands in the upright one, and what stands beside it, as EXIF defines the numbers.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize(
    ("format", "options"), [("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {})]
)
def test_an_image_stands_upright_whatever_its_exif_orientation(format: str, options: dict[str, Any]) -> None:
    pixels = noise(4, 6)
    plain = decoded(encoded(Image.fromarray(pixels), format, **options), FORMATS)
    for number, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[274] = number
        content = encoded(Image.fromarray(pixels), format, exif=exif, **options)
        assert np.array_equal(decoded(content, FORMATS), upright(plain)), number


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "damage", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"\0" * 9]
)
def test_damaged_exif_data_leave_a_whole_image_as_it_is(damage: bytes) -> None:
    for format in ("PNG", "JPEG", "WEBP"):
        image = smooth(8, 8)
        with_damage = decoded(encoded(image, format, exif=damage), FORMATS)
        assert np.array_equal(with_damage, decoded(encoded(image, format), FORMATS))


@pytest.mark.parametrize("number", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(number: int) -> None:
    exif = Image.Exif()
    exif[274] = number
    assert np.array_equal(decoded(encoded(Image.fromarray(noise(4, 6)), exif=exif), FORMATS), noise(4, 6))


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(format: str) -> None:
    got = decoded(encoded(Image.fromarray(DEEP), format), FORMATS)
    assert got.shape == DEEP.shape and got.dtype == np.uint8
    assert np.array_equal(got, np.rint(DEEP / 257))


def test_tiffs_of_16_bits_are_read_in_either_order_of_bytes_and_with_white_as_zero() -> None:
    big_endian = Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes())
    assert np.array_equal(decoded(encoded(big_endian, "TIFF"), FORMATS), np.rint(DEEP / 257))
    inverted = encoded(Image.fromarray(65535 - DEEP), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(decoded(inverted, FORMATS), np.rint(DEEP / 257))


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.full((4, 4), 0.5, dtype=np.float32), "floats"),
        (np.full((4, 4), 70_000, dtype=np.int32), "more than 16 bits"),
        (np.full((4, 4), 7, dtype=np.int32), "more than 16 bits"),
    ],
)
def test_pixels_whose_white_is_not_told_are_refused(pixels: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decoded(encoded(Image.fromarray(pixels), "TIFF"), FORMATS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_grey_are_images_stored_as_grey_and_all_others_rgb(mode: str) -> None:
    image = Image.fromarray(noise(4, 6)).convert("L").convert(mode)  # grey things, in whatever mode
    got = decoded(encoded(image), FORMATS)
    assert got.shape == ((4, 6) if mode in ("1", "L", "LA") else (4, 6, 3))
    assert np.array_equal(got, np.asarray(image.convert("L" if got.ndim == 2 else "RGB")))


def test_colours_come_as_rgb_from_cmyk_ycbcr_and_lab() -> None:
    image = smooth(64, 64)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(image, to_lab)
    assert lab is not None
    contents = [
        *(encoded(image.convert("CMYK"), "TIFF"), encoded(lab, "TIFF"), encoded(image.convert("YCbCr"), "JPEG", quality=95)),
        encoded(image.convert("CMYK"), "JPEG", quality=95),
    ]
    for content in contents:
        assert np.abs(decoded(content, FORMATS).astype(int) - np.asarray(image)).mean() < 6


def test_transparent_parts_are_laid_over_white() -> None:
    colours = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [10, 20, 30, 51]]], dtype=np.uint8)
    expected = np.array([[[255, 255, 255], [10, 20, 30], [206, 208, 210]]])
    for format in ("PNG", "TIFF"):
        assert np.array_equal(decoded(encoded(Image.fromarray(colours), format), FORMATS), expected)
    grey = Image.fromarray(np.array([[[40, 0], [40, 255]]], dtype=np.uint8), "LA")
    assert decoded(encoded(grey), FORMATS).tolist() == [[255, 40]]


@pytest.mark.parametrize(
    ("mode", "clear", "expected"),
    [("L", 7, [[255, 8]]), ("RGB", (7, 7, 7), [[[255] * 3, [8] * 3]]), ("P", 0, [[[255] * 3, [8] * 3]]), ("P", b"\0\xff", None)],
)
def test_a_colour_that_a_png_declares_clear_is_white(mode: str, clear: Any, expected: list[Any]) -> None:
    image = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
        image.putpalette([7, 7, 7, 8, 8, 8])
    got = decoded(encoded(image if mode == "P" else image.convert(mode), transparency=clear), FORMATS)
    assert got.tolist() == (expected or [[[255] * 3, [8] * 3]])


def test_a_clear_value_of_a_png_of_16_bits_is_white_and_no_other_value_with_it() -> None:
    got = decoded(encoded(Image.fromarray(np.array([[200, 201]], dtype=np.uint16)), transparency=200), FORMATS)
    assert got.tolist() == [[255, 1]]


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)) for value in (10, 200, 90)]
    got = decoded(encoded(frames[0], format, save_all=True, append_images=frames[1:]), FORMATS)
    assert np.array_equal(got, np.full((4, 4, 3), 10))


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 80), (80, 40), (6, 6), (5, 12), (1, 300), (300, 1)])
@pytest.mark.parametrize("size", [8, 20])
def test_a_size_brings_every_image_to_it_grey_or_colour(height: int, width: int, size: int) -> None:
    image = smooth(height, width)
    assert decoded(encoded(image), FORMATS, size).shape == (size, size, 3)
    assert decoded(encoded(image.convert("L")), FORMATS, size).shape == (size, size)


@pytest.mark.parametrize("turned", [False, True])
def test_the_shorter_side_gets_the_size_and_the_middle_of_the_longer_one_stays(turned: bool) -> None:
    image = smooth(40, 80)
    whole = np.asarray(image.resize((40, 20), Image.Resampling.BICUBIC))[:, 10:30]
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    got = decoded(encoded(image, exif=exif), FORMATS, 20)
    assert np.array_equal(got, UPRIGHT[6](whole) if turned else whole)


def test_fine_stripes_become_their_mean_and_no_others() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255  # every fourth column alone would be white
    got = decoded(encoded(Image.fromarray(stripes)), FORMATS, 16)
    assert np.abs(got[:, 2:-2].astype(int) - 127).max() <= 2


def test_an_image_of_its_size_keeps_every_pixel() -> None:
    assert np.array_equal(decoded(encoded(Image.fromarray(noise(16, 16))), FORMATS, 16), noise(16, 16))


def test_a_large_jpeg_is_unpacked_smaller_and_looks_the_same() -> None:
    image = smooth(400, 640)
    content = encoded(image, "JPEG", quality=95)
    plain = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC, box=(120, 0, 520, 400)))
    got = decoded(content, FORMATS, 24)
    assert np.abs(got.astype(int) - plain).max() <= 6
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft(None, (48, 48))
        assert opened.size == (80, 50), "an eighth in each direction"


def test_a_photograph_of_any_camera_is_read_where_it_is_brought_to_a_size() -> None:
    content = encoded(Image.new("RGB", (9_600, 9_000), "teal"), "JPEG")
    assert decoded(content, FORMATS, 32).shape == (32, 32, 3)
    with pytest.raises(ValueError, match="9600x9000 pixels, more than"):
        decoded(content, FORMATS)


def test_grey_of_16_bits_with_transparency_stays_grey() -> None:
    size, rows = 2, b"".join(b"\0" + bytes.fromhex("8000ffff4000ffff") for _ in range(2))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 16, 4, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert decoded(content, FORMATS).tolist() == [[0x80, 0x40]] * 2


def test_on_the_way_of_a_long_thin_image_none_is_larger_than_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    content, made, new = encoded(Image.fromarray(noise(1, 4096))), list[int](), Image.Image._new

    def watched(self: Image.Image, core: Any) -> Image.Image:
        made.append(core.size[0] * core.size[1])
        return new(self, core)

    monkeypatch.setattr(Image.Image, "_new", watched)
    assert decoded(content, FORMATS, 224).shape == (224, 224, 3)
    assert made and max(made) <= 224 * 224
