"""Bytes of one file -> magnitudes: JPEG, PNG, TIFF (float or complex), MSTAR Phoenix."""

from __future__ import annotations

import io
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from jepa_modalities.data.refusal import MOST_PER_BYTE
from jepa_modalities.data.sar.phoenix import is_phoenix, parse_phoenix

Quantity = Literal["amplitude", "intensity", "db", "real_imaginary"]
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode(
    content: bytes, name: str, quantity: Quantity, channel: int
) -> tuple[NDArray[np.float32], str]:
    """Magnitudes of one encoded chip.

    Args:
        content: the whole file; its kind is told by its first bytes.
        name: for messages.
        quantity: of stored numbers; MSTAR files and complex images know theirs.
        channel: of files with several.

    Returns:
        Magnitudes (height, width), and the class that an MSTAR header names ("" elsewhere).

    Raises:
        ValueError: numbers that are no such quantity, or no such channel.
        OSError: damaged or truncated data.
    """
    if is_phoenix(content):
        chip = parse_phoenix(content, name)
        return chip.magnitude, chip.target
    pixels = _tiff(content) if content[:4] in _TIFF else _picture(content)
    return to_magnitude(pixels, quantity, channel), ""


def to_magnitude(pixels: NDArray[Any], quantity: Quantity, channel: int = 0) -> NDArray[np.float32]:
    """Stored numbers, (height, width) or with channels last, as magnitudes (height, width).

    Integers are divided by the largest value of their type (8-bit and 16-bit pictures).

    Raises:
        ValueError: NaN, infinite or negative values, no such channel, or an odd number of channels
            that should be real and imaginary parts.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"has shape {pixels.shape}, expected (height, width[, channels])")
    if quantity == "real_imaginary" and pixels.dtype.kind != "c":
        if pixels.shape[2] % 2:
            raise ValueError(
                f"has {pixels.shape[2]} channels; quantity real_imaginary needs two for each "
                f"polarisation"
            )
        pixels = pixels[..., ::2] + 1j * pixels[..., 1::2].astype(np.float32)
    count = pixels.shape[2]
    if not -count <= channel < count:
        raise ValueError(f"has {count} channel(s), so there is no channel {channel}")
    plane = pixels[..., channel]
    if plane.dtype.kind == "c":
        return _finite(np.abs(plane).astype(np.float32))
    if plane.dtype.kind in "ui":
        plane = plane.astype(np.float32) / np.iinfo(plane.dtype).max
    plane = _finite(plane.astype(np.float32))
    if quantity == "db":
        return np.float32(10) ** (plane / np.float32(20))
    if plane.min() < 0:
        raise ValueError(
            f"has values down to {plane.min():.3g}, which are no {quantity}; name what is stored "
            f"with quantity: db, or real_imaginary for pairs of channels"
        )
    return np.sqrt(plane) if quantity == "intensity" else plane


def _finite(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(plane).all():
        bad = int((~np.isfinite(plane)).sum())
        raise ValueError(f"has {bad:,} NaN or infinite values; repair or remove it")
    return plane


def _picture(content: bytes) -> NDArray[Any]:
    """8-bit or 16-bit grey; colour as Pillow's luma, as SAR-JEPA reads it."""
    try:
        opened = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError(
            f"is no JPEG, PNG, TIFF or MSTAR Phoenix file: it begins with {content[:12]!r}"
        ) from None
    with opened as image:
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise ValueError(f"has values {values.min()} to {values.max()}, expected 16 bits")
            return values.astype(np.uint16)
        return np.asarray(image if image.mode == "F" else image.convert("L"))


def _tiff(content: bytes) -> NDArray[Any]:
    """Channels last. tifffile first; what it cannot decode goes to rasterio (an extra)."""
    try:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            _check_size(series.shape, series.dtype, content)
            pixels = np.asarray(series.asarray())
            if pixels.ndim == 3 and series.axes.endswith("YX") and len(pixels) < pixels.shape[-1]:
                return pixels.transpose(1, 2, 0)
            return pixels  # tifffile.imwrite calls an array with few channels last a stack of rows
    except ImportError as error:
        reason, missing = str(error), "tifffile"
    except Exception as error:  # unknown sample formats and compressions raise many kinds
        reason, missing = str(error), "rasterio"
    try:
        import rasterio
    except ImportError:
        raise ValueError(
            f"is a TIFF that needs {missing} ({reason}): pip install 'jepa_modalities[sar]'"
        ) from None
    with rasterio.io.MemoryFile(content) as memory, memory.open(driver="GTiff") as file:
        _check_size((file.count, file.height, file.width), None, content)
        return np.asarray(file.read()).transpose(1, 2, 0)


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any] | None, content: bytes) -> None:
    """Hold what a TIFF claims against its bytes, before memory is taken.

    Raises:
        ValueError: more than any compression can hold.
    """
    claimed = math.prod(shape) * (1 if dtype is None else dtype.itemsize)
    if claimed > MOST_PER_BYTE * len(content):
        raise ValueError(
            f"claims {claimed:,} bytes of pixels (shape {shape}) in {len(content):,}; copy it again"
        )
