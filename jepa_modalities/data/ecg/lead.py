"""Names of leads and units: many spellings, one meaning."""

from __future__ import annotations

from collections.abc import Mapping

# The usual order of reports, and of PTB-XL. MIMIC-IV-ECG stores aVF before aVL.
STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
# Further electrodes on the chest, orthogonal leads, modified leads of Holter recorders.
_FURTHER = ("V7", "V8", "V9", "V3R", "V4R", "V5R", "V6R", "VX", "VY", "VZ", "MLI", "MLII", "MLIII")
KNOWN_LEADS = frozenset((*STANDARD_LEADS, *_FURTHER))
_SPELLING = {name.lower(): name for name in KNOWN_LEADS} | {
    "di": "I",
    "dii": "II",
    "diii": "III",
    "ml2": "MLII",
}
UNITS = ("mV", "uV", "V", "NU")
_UNITS = {"mv": "mV", "millivolt": "mV", "uv": "uV", "microvolt": "uV", "v": "V", "nu": "NU"}
# Factor to millivolts. NU, "no unit", marks normalised signals; it is no voltage.
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3}


def lead_name(text: str, alias: Mapping[str, str] | None = None) -> str:
    """The standard spelling of a lead: aVR for AVR, II for DII, lead ii or ECG_II.

    Unknown names (RESP, CH1) are only stripped of blanks. The modified lead MLII of Holter
    recordings is not II: say so with `alias = {"MLII": "II"}` where that is meant.

    Args:
        text: as a header spells it.
        alias: further spellings; standard spelling of the left side -> name.
    """
    name = text.strip()
    bare = name.lower().removeprefix("lead").removeprefix("ecg").strip(" _-:")
    found = _SPELLING.get(bare, name)
    return found if alias is None else alias.get(found, found)


def unit_name(text: str) -> str:
    """The standard spelling of a unit: mV for mv and MV, uV for µV; others as they are."""
    unit = text.strip().replace("µ", "u").replace("μ", "u")
    return _UNITS.get(unit.lower(), unit)
