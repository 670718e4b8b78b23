"""Build training files from raw data: what `jm prepare DATASET SOURCE OUT` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

# Data set -> module and function, imported on use: preparing recordings needs no torch.
_PLACES = {
    "images": ("image", "prepare_images"),
    "ptbxl": ("ecg_ptbxl", "prepare_ptbxl"),
    "cinc2021": ("ecg_cinc2021", "prepare_cinc2021"),
    "mitdb": ("ecg_mitdb", "prepare_mitdb"),
    "code15": ("ecg_code15", "prepare_code15"),
    "mimic_iv_ecg": ("ecg_mimic", "prepare_mimic_iv_ecg"),
    "wfdb": ("ecg_wfdb", "prepare_wfdb"),
    "arrays": ("ecg_array", "prepare_arrays"),
    "mstar": ("sar", "prepare_mstar"),
    "sar": ("sar", "prepare_chips"),
}


class Preparers(Mapping[str, Callable[..., Any]]):
    """Functions by data set, called with (source, out, **options).

    Their parameters are the flags of `jm prepare`.
    """

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module, function = _PLACES[name]
        found: Callable[..., Any] = getattr(import_module(f"{__name__}.{module}"), function)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


PREPARERS = Preparers()
