"""Text of variable length in HDF5 files, read by a process of its own.

HDF5 keeps such text in heaps, and on some damaged ones its library goes in circles for ever, out of
reach of signals and threads. A process can be ended. Files of `jm prepare` hold text of fixed
width, but for attributes above 60,000 bytes, and need none of this.

Run as a program, this file is that process: `heap.py FILE NAME [START,STOP]`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds; a million texts take two
ATTRIBUTE = "@"  # stands before the name of an attribute of the whole file


def read_apart(path: Path, name: str, rows: slice = slice(None)) -> Any:
    """Text of variable length as nested lists, or as one `str`.

    Args:
        path: HDF5 file.
        name: of a dataset, or `ATTRIBUTE` and the name of an attribute.
        rows: of a dataset.

    Raises:
        ValueError: it cannot be read, or not in `PATIENCE` seconds; names the file.
    """
    part = json.dumps([rows.start, rows.stop])
    here = str(Path(__file__).resolve())
    # -P: the modules beside this file have names of the standard library (array).
    command = [sys.executable, "-P", here, str(path.resolve()), name, part]
    remedy = f"the text of {name.removeprefix(ATTRIBUTE)!r}; copy or make the file again"
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{path} is damaged: HDF5 finds no end in {PATIENCE:g} s in {remedy}"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ValueError(f"{path}: HDF5 cannot read ({said[-1][:200]}) {remedy}")
    return json.loads(done.stdout)


def main(path: str, name: str, part: str) -> None:
    """Write what was asked for to the standard output, as JSON."""
    import h5py
    import numpy as np

    with h5py.File(path) as file:
        if name.startswith(ATTRIBUTE):
            values = file.attrs[name.removeprefix(ATTRIBUTE)]
        else:
            values = file[name][slice(*json.loads(part))]

    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    if isinstance(values, np.ndarray):
        flat = np.array([text(value) for value in values.flat], object)
        found = flat.reshape(values.shape).tolist()
    else:
        found = text(values)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
