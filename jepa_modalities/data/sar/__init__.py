"""Synthetic aperture radar: chips of any kind as one array, MSTAR files, simulated targets.

`read_chips` is the way in. Values are magnitudes (amplitudes), never decibels or power, until a
`Scaling` says otherwise.
"""

from jepa_modalities.data.sar.canvas import Fit
from jepa_modalities.data.sar.chip import Chips, join_chips, read_chips
from jepa_modalities.data.sar.phoenix import PhoenixChip, read_phoenix, write_phoenix
from jepa_modalities.data.sar.scaling import Scaling, measure_scaling
from jepa_modalities.data.sar.source import splits
from jepa_modalities.data.sar.synthetic import synthetic_chips

__all__ = [
    "Chips",
    "Fit",
    "PhoenixChip",
    "Scaling",
    "join_chips",
    "measure_scaling",
    "read_chips",
    "read_phoenix",
    "splits",
    "synthetic_chips",
    "write_phoenix",
]
