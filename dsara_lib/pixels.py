"""The bytes of one image file as pixels of 8 bits, grey [h, w] or RGB [h, w, 3].

Turned as its EXIF data say. Transparent parts are laid over white. Grey of 16 bits is scaled to 8: 65,535 becomes 255, nothing is
clipped. Of several frames the first is taken; colour profiles are passed over. Pixels whose white is not told, such as floats,
are refused.

Grey are images that are stored as grey, whatever their pixels: a colour image of grey things and one with a palette are colour.

Files may come from strangers. Formats are those of `FORMATS`, which Pillow decodes itself: for others, such as EPS, it starts
programs. Sizes are known before anything is decoded.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

Picture = Any  # an Image of Pillow, which is imported where one is read
FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "PCX", "JPEG2000")
MOST_PIXELS = 64 * 2**20  # of an image as it is decoded: 192 MiB
ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262  # numbers of TIFF tags, the first of EXIF data in any format
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
PNG_COLOUR, GREY_WITH_ALPHA = 25, 4  # the place of a PNG's colour type, and one of its values
GREY = ("1", "L", "LA", "La")
FULL_SCALE = ("PNG", "PPM")  # Pillow may give their 16 bits as integers of 32


def decoded(content: bytes, formats: tuple[str, ...], size: int | None = None) -> np.ndarray:
    """The image, brought to size x size where a size is given. `formats` says what to try, in which order.

    Pillow fails in many ways: raises any Exception where the bytes are no whole image, ValueError where it cannot be taken.
    """
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise EOFError("the file is empty")
    try:
        opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError:  # its own words name an object in memory
        raise ValueError(f"it is none of {', '.join(sorted(formats))}") from None
    with opened as image:
        if size is not None:
            image.draft(None, (2 * size, 2 * size))  # a JPEG that is much larger is unpacked at 1/2, 1/4 or 1/8
        if image.size[0] * image.size[1] > MOST_PIXELS:
            raise ValueError(f"it has {image.size[0]}x{image.size[1]} pixels, more than {MOST_PIXELS:,} in all")
        image.load()
        orientation = _orientation(image)  # not before: Pillow turns a TIFF itself when it is loaded
        # Of 16 bits Pillow has no mode of that kind: three channels are one.
        in_three = image.mode == "RGBA" and image.format == "PNG" and content[PNG_COLOUR] == GREY_WITH_ALPHA
        turned = _turned(_opaque(image.convert("LA") if in_three else _of_8_bits(image)), orientation)
        return np.asarray(turned if size is None else _brought_to(turned, size))


def _of_8_bits(image: Picture) -> Picture:
    """Modes that stand for 8 bits or fewer are left as they are."""
    if image.mode.startswith("F"):
        raise ValueError(f"its pixels are floats (mode {image.mode}), whose white is not told")
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    white, dark_is_high, transparent = 2**16 - 1, False, image.info.get("transparency")
    if image.format == "TIFF":
        tags = image.tag_v2
        white = 2**12 - 1 if tags.get(BITS) == (12,) else white
        dark_is_high = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and (image.format not in FULL_SCALE or values.min() < 0 or values.max() > white):
        raise ValueError("its pixels have a sign or more than 16 bits, and white is not told")
    scaled = (values * 255 + white // 2) // white
    if dark_is_high:
        scaled = 255 - scaled
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _opaque(image: Picture) -> Picture:
    """Grey ("L") or RGB, transparent parts over white."""
    from PIL import Image

    mode = "L" if image.mode in GREY else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    clear = image.convert("LA" if mode == "L" else "RGBA")
    white = Image.new(mode, image.size, "white")
    white.paste(clear.convert(mode), mask=clear.getchannel("A"))
    return white


def _orientation(image: Picture) -> int:
    """1 to 8 as EXIF has it, of an image that is decoded; 1, upright, where it says nothing or nothing that can be understood."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data, in as many ways as there are: the image is whole
        return 1


def _turned(image: Picture, orientation: int) -> Picture:
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(ways[orientation]) if orientation in ways else image


def _brought_to(image: Picture, size: int) -> Picture:
    """The shorter side as long as `size`, what the longer one has over cut off at both ends."""
    from PIL.Image import Resampling

    width, height = image.size
    if width == height == size:
        return image
    # Only the square in the middle is resized: of an image of 10,000x1 pixels the whole would be 10,000 times as much.
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Resampling.BICUBIC, box=(left, top, left + side, top + side))
