"""What `read_chips` says to broken input: `python benchmarks/sar_bad_input.py [OUT.json]`.

Each case breaks one good file. Without stored data a simulated chip stands for MSTAR's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_modalities.data.sar import read_chips, synthetic_chips, write_phoenix


def cases(folder: Path) -> dict[str, tuple[Path, dict[str, object]]]:
    """Name -> broken source and the options it is read with."""
    magnitude = synthetic_chips(1).values[0, 0].numpy()
    raw = folder / "HB1.000"
    write_phoenix(raw, magnitude, np.zeros_like(magnitude), {"TargetType": "bmp2_tank"})
    content = raw.read_bytes()
    start = len(content) - 8 * magnitude.size
    little = np.frombuffer(content, ">f4", offset=start).astype("<f4").tobytes()
    _place(folder, "truncated", "HB1.000").write_bytes(content[:-1000])
    _place(folder, "little_endian", "HB1.000").write_bytes(content[:start] + little)
    _place(folder, "no_header", "HB1.000").write_bytes(content[start:])
    picture = Image.fromarray(np.clip(505 * magnitude, 0, 255).astype(np.uint8))
    for name in ("another_size", "half_jpeg"):
        picture.save(_place(folder, name, "good.jpg"))
    picture.resize((40, 40)).save(_place(folder, "another_size", "small.jpg"))
    half = (folder / "half_jpeg" / "good.jpg").read_bytes()
    _place(folder, "half_jpeg", "half.jpg").write_bytes(half[: len(half) // 2])
    picture.save(_place(folder, "zeros", "good.png"))
    Image.new("L", (64, 64)).save(folder / "zeros" / "zero.png")
    member = (folder / "zeros" / "good.png").read_bytes()
    archive = folder / "member.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("a/1.png", "a/2.png"):
            packed.writestr(name, member)
    broken = bytearray(archive.read_bytes())
    broken[broken.index(member) + 100] ^= 0xFF
    archive.write_bytes(broken)
    (folder / "half.zip").write_bytes(broken[: len(broken) // 2])
    crop: dict[str, object] = {"size": 64, "fit": "crop"}
    return {
        "truncated raw file": (folder / "truncated", {}),
        "little-endian raw file": (folder / "little_endian", {}),
        "raw file without its header": (folder / "no_header", {}),
        "JPEG of another size, padded": (folder / "another_size", {"size": 64}),
        "JPEG of another size, fit = crop": (folder / "another_size", crop),
        "JPEG cut in half": (folder / "half_jpeg", {}),
        "corrupt zip member": (archive, {}),
        "zip cut in half": (folder / "half.zip", {}),
        "all-zero chip": (folder / "zeros", {}),
        "missing index": (archive, {"index": folder / "none.csv"}),
        "wrong path": (folder / "nowhere", {}),
    }


def _place(folder: Path, name: str, file: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name / file


def messages() -> dict[str, str]:
    """What is said in each case."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for case, (path, options) in cases(Path(name)).items():
            try:
                chips = read_chips(path, **options)  # type: ignore[arg-type]
                valid = "all" if chips.valid is None else f"{float(chips.valid.float().mean()):.0%}"
                found[case] = f"read: {len(chips)} chips, {valid} of the pixels valid"
            except (ValueError, OSError) as error:
                found[case] = f"{type(error).__name__}: {error}".replace(name, "DATA")
    return found


if __name__ == "__main__":
    result = messages()
    for case, message in result.items():
        print(f"{case}\n  {message}\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n")
