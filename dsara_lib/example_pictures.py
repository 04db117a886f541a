"""A small folder of pictures as people have them: several sizes, formats and depths, unequal classes, and one file that is broken.

Notebook 10 begins with it where no folder of one's own is given.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from .runs import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

COUNTS = {"circle": (60, 20), "square": (60, 20), "triangle": (25, 10)}  # of training and test
SIZES = (24, 48)  # least and most pixels of a side
BROKEN = "train/square/broken.png"
ORIENTATION, TURNED = 274, 6  # of EXIF: the camera was held upright


def write_example(folder: str | Path) -> Path:
    """Write `train/<class>/*` and `test/<class>/*` there, where nothing is yet; the folder. The pictures are always the same."""
    folder, drawn = Path(folder), random.Random(0)
    if (folder / BROKEN).is_file():
        return folder
    for name, counts in COUNTS.items():
        for split, count in zip(("train", "test"), counts, strict=True):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                _save(picture(name, drawn), folder / split / name, number)
    write_atomically(folder / BROKEN, b"\x89PNG, but no more of it")  # the last one, so that a folder that has it is whole
    return folder


def picture(name: str, drawn: random.Random) -> Image:
    """A shape in some colour on another, somewhere on a picture of some size."""
    from PIL import Image, ImageDraw

    width, height = (drawn.randint(*SIZES) for _ in range(2))
    colour, ground = (tuple(drawn.randint(low, high) for _ in range(3)) for low, high in ((140, 255), (0, 110)))
    image = Image.new("RGB", (width, height), ground)
    half = min(width, height) * drawn.uniform(0.25, 0.4)
    x, y = width / 2 + drawn.uniform(-2, 2), height / 2 + drawn.uniform(-2, 2)
    corners = (x - half, y - half, x + half, y + half)
    pen = ImageDraw.Draw(image)
    if name == "circle":
        pen.ellipse(corners, fill=colour)
    elif name == "square":
        pen.rectangle(corners, fill=colour)
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    return image


def _save(image: Image, folder: Path, number: int) -> None:
    """As PNG; some with a palette, as JPEG, or as a camera writes them that was held upright."""
    from PIL import Image

    kind = number % 5
    if kind == 0:
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / f"{number:03}.png")
    elif kind == 1:
        image.save(folder / f"{number:03}.jpg", quality=95)
    elif kind == 2:
        exif = Image.Exif()
        exif[ORIENTATION] = TURNED
        image.transpose(Image.Transpose.ROTATE_90).save(folder / f"{number:03}.jpg", quality=95, exif=exif)
    else:
        image.save(folder / f"{number:03}.png")
