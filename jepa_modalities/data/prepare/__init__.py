"""Build training files from raw data: what `jm prepare DATASET SOURCE OUT` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepa_modalities.data.prepare.image import prepare_images
from jepa_modalities.data.prepare.sar import prepare_chips, prepare_mstar

# Called with (source, out, **options).
PREPARERS: dict[str, Callable[..., Any]] = {
    "images": prepare_images,
    "mstar": prepare_mstar,
    "sar": prepare_chips,
}
