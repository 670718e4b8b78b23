"""Standard deviations per lead of ten public 12-lead sets, in mV, as ECG-JEPA uses them.

Source: Weimann & Conrad, ECG-JEPA (Computers in Biology and Medicine 2025), data configuration;
means are within 0.03 mV of 0 and taken as 0. CODE-15 and St Petersburg are those after a 0.5 Hz
high-pass. PTB-XL: folds 1 to 8.
"""

from __future__ import annotations

from jepa_modalities.data.ecg.lead import STANDARD_LEADS

_STD: dict[str, tuple[float, ...]] = {
    "mimic_iv_ecg": (
        *(0.155, 0.158, 0.166, 0.133, 0.141, 0.143),
        *(0.207, 0.282, 0.284, 0.253, 0.222, 0.197),
    ),
    "code15": (
        *(0.488, 0.450, 0.437, 0.416, 0.405, 0.370),
        *(0.548, 0.639, 0.719, 0.695, 0.676, 0.639),
    ),
    "ptbxl": (
        *(0.191, 0.166, 0.173, 0.142, 0.149, 0.147),
        *(0.235, 0.338, 0.335, 0.299, 0.294, 0.242),
    ),
    "georgia": (
        *(0.157, 0.178, 0.164, 0.147, 0.134, 0.153),
        *(0.213, 0.285, 0.272, 0.245, 0.224, 0.209),
    ),
    "ningbo": (
        *(0.145, 0.179, 0.159, 0.142, 0.123, 0.153),
        *(0.228, 0.368, 0.377, 0.394, 0.405, 0.444),
    ),
    "cpsc_2018": (
        *(0.214, 0.236, 0.221, 0.209, 0.196, 0.214),
        *(0.336, 0.417, 0.449, 0.483, 0.523, 0.561),
    ),
    "ptb": (
        *(0.642, 0.975, 0.953, 0.674, 0.651, 0.909),
        *(0.643, 0.658, 0.668, 0.688, 0.648, 0.622),
    ),
    "st_petersburg_incart": (
        *(0.132, 0.370, 0.353, 0.215, 0.191, 0.356),
        *(0.234, 0.320, 0.328, 0.290, 0.317, 0.337),
    ),
    "cpsc_2018_extra": (
        *(0.182, 0.183, 0.184, 0.163, 0.164, 0.165),
        *(0.288, 0.370, 0.371, 0.380, 0.375, 0.392),
    ),
    "chapman_shaoxing": (
        *(0.140, 0.171, 0.145, 0.138, 0.114, 0.143),
        *(0.218, 0.355, 0.366, 0.365, 0.332, 0.299),
    ),
}

CONSTANTS: dict[str, dict[str, float]] = {
    name: dict(zip(STANDARD_LEADS, std, strict=True)) for name, std in _STD.items()
}
