"""Encoded images (JPEG, PNG, WebP, ...) and their way to 8-bit grey or RGB pixels."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Up to so many bytes of pixels are decoded once and kept in memory.
RESIDENT_BYTES = 2 << 30

Channels = Literal[1, 3]


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Where each encoded image lies: a stretch of a file, so that any process can read it.

    Attributes:
        files: distinct files, or bytes in memory (uint8) where a file cannot be read in stretches.
        file: number of the file of each image, (images,).
        start: first byte, (images,).
        length: number of bytes, -1 for all, (images,).
        names: for messages, one per image.
    """

    files: tuple[Path | NDArray[np.uint8], ...]
    file: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: Sequence[int] | NDArray[np.int64]) -> EncodedImages:
        """The images `rows`, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        names = tuple(self.names[row] for row in rows)
        return EncodedImages(
            self.files, self.file[rows], self.start[rows], self.length[rows], names
        )

    def read(self, row: int) -> bytes:
        """The encoded bytes of one image."""
        source = self.files[self.file[row]]
        start, length = int(self.start[row]), int(self.length[row])
        if isinstance(source, np.ndarray):
            return source[start : start + length].tobytes()
        with open(source, "rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def open(self, row: int) -> Image.Image:
        """One image, header read, pixels not yet decoded."""
        return Image.open(io.BytesIO(self.read(row)))


def join_encoded(parts: Sequence[EncodedImages]) -> EncodedImages:
    """Several sets as one, in order."""
    first = np.cumsum([0, *(len(part.files) for part in parts)])
    return EncodedImages(
        tuple(file for part in parts for file in part.files),
        np.concatenate([part.file + n for part, n in zip(parts, first, strict=False)]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
        tuple(name for part in parts for name in part.names),
    )


def to_pixels(image: Image.Image, channels: Channels) -> Image.Image:
    """Decode to upright 8-bit grey (mode L) or RGB.

    EXIF orientation is applied. Transparent parts lie on white. 16-bit values are divided by 257;
    float images must be in 0..1 or 0..255. CMYK, palettes and the rest convert as in Pillow.

    Raises:
        ValueError: values that are not finite or out of range.
        OSError: damaged or truncated data.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def to_bytes(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Integer (16-bit scale) or float (0..1 or 0..255) values as 0..255.

    Raises:
        ValueError: NaN, infinity or values out of range.
    """
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("NaN or infinite values")
    if values.dtype.kind != "f":
        if low < 0 or high > 65535:
            raise ValueError(f"values {low} to {high}, expected 0 to 65535")
        return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    if low < 0 or high > 255:
        raise ValueError(f"values {low:g} to {high:g}, expected 0 to 1 or 0 to 255")
    scaled: NDArray[np.uint8] = np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8)
    return scaled


def is_colour(image: Image.Image) -> bool:
    """Whether the file's mode can hold colour."""
    return image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")


@dataclass(frozen=True, eq=False)
class Scan:
    """What one pass over all images found.

    Attributes:
        pixels: uint8, (images, channels, height, width), or None where they cannot be kept.
        sizes: some of the (height, width) found.
        colour: whether any image can hold colour.
        failed: row and reason of each image that cannot be decoded.
    """

    pixels: NDArray[np.uint8] | None
    sizes: tuple[tuple[int, int], ...]
    colour: bool
    failed: dict[int, str]


def scan(encoded: EncodedImages, channels: Channels, budget: float) -> Scan:
    """Decode every image once, in threads: find the unreadable ones, keep the pixels if they fit.

    Args:
        encoded: the images.
        channels: of the kept pixels.
        budget: bytes of pixels that may be kept; 0 keeps nothing.
    """
    failed: dict[int, str] = {}
    sizes: dict[tuple[int, int], None] = {}
    pixels: NDArray[np.uint8] | None = None
    colour, keep = False, budget > 0

    def one(row: int) -> None:
        nonlocal pixels, colour, keep
        try:
            image = encoded.open(row)
            can_be_coloured = is_colour(image)
            if not keep and image.format == "JPEG":
                # Every byte is still read, but only an eighth of the size is computed.
                image.draft(None, (1, 1))
            image = to_pixels(image, channels)
        except Exception as error:  # decoders fail in many ways: each is a reason to list
            failed[row] = str(error) or type(error).__name__
            return
        colour = colour or can_be_coloured
        if not keep:
            return
        size = (image.height, image.width)
        if not sizes and math.prod(size) * channels * len(encoded) <= budget:
            pixels = np.zeros((len(encoded), channels, *size), np.uint8)
        sizes[size] = None
        kept = pixels  # another thread may drop it meanwhile
        if len(sizes) > 1 or kept is None:
            pixels, keep = None, False
        else:
            kept[row] = np.asarray(image).reshape(*size, channels).transpose(2, 0, 1)

    def many(rows: range) -> None:
        for row in rows:
            one(row)

    first = 0
    while first < len(encoded) and len(failed) == first:  # the first readable one sets the size
        one(first)
        first += 1
    chunks = [range(low, min(low + 64, len(encoded))) for low in range(first, len(encoded), 64)]
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 1)) as pool:
        list(pool.map(many, chunks))
    return Scan(pixels, tuple(sizes), colour, failed)
