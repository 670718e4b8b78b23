"""PTB-XL's six label tasks, and others made of a file's own labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_modalities.data.ecg.records import ECGRecords

# SCP-ECG statements of PTB-XL (Wagner et al. 2020, `scp_statements.csv`, CC BY 4.0):
# superclass -> subclass -> statements.
DIAGNOSTIC: dict[str, dict[str, str]] = {
    "STTC": {
        "STTC": "NDT DIG LNGQT ANEUR EL",
        "NST_": "NST_",
        "ISC_": "ISC_",
        "ISCA": "ISCAL ISCAS ISCLA ISCAN",
        "ISCI": "ISCIN ISCIL",
    },
    "NORM": {
        "NORM": "NORM",
    },
    "MI": {
        "IMI": "IMI ILMI IPLMI IPMI INJIN INJIL",
        "AMI": "ASMI AMI ALMI INJAS INJAL INJLA",
        "LMI": "LMI",
        "PMI": "PMI",
    },
    "HYP": {
        "LVH": "LVH",
        "LAO/LAE": "LAO/LAE",
        "RVH": "RVH",
        "RAO/RAE": "RAO/RAE",
        "SEHYP": "SEHYP",
    },
    "CD": {
        "LAFB/LPFB": "LAFB LPFB",
        "IRBBB": "IRBBB",
        "_AVB": "1AVB 3AVB 2AVB",
        "IVCD": "IVCD",
        "CRBBB": "CRBBB",
        "CLBBB": "CLBBB",
        "WPW": "WPW",
        "ILBBB": "ILBBB",
    },
}
FORM = (
    "NDT NST_ DIG LNGQT ABQRS PVC STD_ VCLVH QWAVE LOWT NT_ PAC LPR INVT LVOLT HVOLT TAB_ STE_ "
    "PRC(S)"
)
RHYTHM = "SR AFIB STACH SARRH SBRAD PACE SVARR BIGU AFLT SVTAC PSVT TRIGU"
# As the field writes them; other files of the same statements order them by chance.
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
PTBXL_TASKS = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm", "single")


@dataclass(frozen=True)
class Task:
    """Labels of one task.

    Attributes:
        name: of the task.
        classes: names of the columns.
        labels: uint8 (records, classes).
        rows: bool (records,), False for records that take no part: those without any label, or for
            `single` with more than one.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.uint8]
    rows: NDArray[np.bool_]


def statements(task: str) -> dict[str, list[str]]:
    """Statements behind each class of one of PTB-XL's tasks, {class: SCP codes}.

    Raises:
        ValueError: unknown task.
    """
    subclasses = {
        sub: codes.split() for parts in DIAGNOSTIC.values() for sub, codes in parts.items()
    }
    diagnostic = [code for codes in subclasses.values() for code in codes]
    if task == "subdiagnostic":
        return subclasses
    if task in ("superdiagnostic", "single"):
        return {
            name: [code for codes in DIAGNOSTIC[name].values() for code in codes.split()]
            for name in SUPERCLASSES
        }
    singles = {
        "diagnostic": diagnostic,
        "form": FORM.split(),
        "rhythm": RHYTHM.split(),
        "all": [*dict.fromkeys([*diagnostic, *FORM.split(), *RHYTHM.split()])],
    }
    if task not in singles:
        raise ValueError(f"task {task!r} is not known; choose from {', '.join(PTBXL_TASKS)}")
    return {code: [code] for code in singles[task]}


def task_labels(records: ECGRecords, task: str) -> Task | None:
    """Labels of a task; any listed statement counts, whatever its likelihood.

    Args:
        records: with SCP codes as label names, or for `labels` with any.
        task: one of PTB-XL's, or `labels` for the file's own columns.

    Returns:
        None where the file has no labels, or none of the task's statements.
    """
    if records.labels is None or not records.label_names:
        return None
    own = records.labels
    if task == "labels":
        return Task(task, records.label_names, own, np.asarray(own.any(1)))
    place = {name: column for column, name in enumerate(records.label_names)}
    table = statements(task)
    labels = np.zeros((len(records), len(table)), np.uint8)
    for column, codes in enumerate(table.values()):
        known = [place[code] for code in codes if code in place]
        if known:
            labels[:, column] = own[:, known].max(1)
    if not labels.any():
        return None
    rows = labels.sum(1) == 1 if task == "single" else labels.any(1)
    return Task(task, tuple(table), labels, np.asarray(rows))
