"""Write the digits as two .npz files: `python datasets/digits/build.py FOLDER`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from jepa_modalities.data.image import digits

# Part -> sha256 of pixels and labels, as in the card.
EXPECTED = {
    "development": (
        "601516ea681e8f886957b11bebee56e35ecddee92a62831b00c7ddae00dc032e",
        "2093bdf6ce27420d2597b552f65436f18e6deddeda62a91c4f796444b0af26e1",
    ),
    "test": (
        "5c2b120dbadcd893266e4fe487135087cb494d82b3732ce606eab009909b38f8",
        "effa23c7143bf4f51343f05052be596aebfa21eb168559ccdd9bbb24d46c9297",
    ),
}


def build(folder: Path) -> list[Path]:
    """Write `development.npz` and `test.npz` with `images` and `labels`.

    Raises:
        ValueError: the pixels or labels are not those of the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for (part, expected), images in zip(EXPECTED.items(), digits(), strict=True):
        assert images.images is not None and images.labels is not None
        pixels, labels = images.images.numpy(), images.labels.numpy()
        found = tuple(hashlib.sha256(values.tobytes()).hexdigest() for values in (pixels, labels))
        if found != expected:
            raise ValueError(f"digits, {part}: sha256 {found}, expected {expected}")
        paths.append(folder / f"{part}.npz")
        np.savez_compressed(paths[-1], images=pixels[:, 0], labels=labels)
    return paths


if __name__ == "__main__":
    print(*build(Path(sys.argv[1])), sep="\n")
