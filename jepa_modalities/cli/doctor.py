"""`jm doctor`: versions, device, known trouble with torchvision, data files."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

from rich.console import Console


def doctor(console: Console) -> int:
    """Print what was found; 0 when the main job can run."""
    import torch

    from jepa_modalities import __version__

    console.print(f"jepa_modalities {__version__}, Python {platform.python_version()}")
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        console.print(f"GPU: {torch.cuda.get_device_name()}")
    else:
        console.print("GPU: none; recipes run on the CPU")
    console.print(_torchvision())
    for name, extra in (("timm", "timm"), ("onnx", "onnx"), ("huggingface_hub", "hub")):
        there = importlib.util.find_spec(name) is not None
        hint = "installed" if there else f'not installed: pip install "jepa_modalities[{extra}]"'
        console.print(f"{name}: {hint}", markup=False)
    root = os.environ.get("JEPA_DATA")
    if root is None:
        console.print("JEPA_DATA is not set: recipes on stored data need it, or --data.path")
    else:
        state = "found" if Path(root).is_dir() else "NO SUCH FOLDER: correct the variable"
        console.print(f"JEPA_DATA = {root}: {state}")
    return 0


def _torchvision() -> str:
    if importlib.util.find_spec("torchvision") is None:
        return "torchvision: not installed (only timm backbones need it)"
    try:
        import torchvision

        return f"torchvision {torchvision.__version__}: works"
    except Exception as error:
        return (
            f"torchvision: broken ({error}). A CPU build of torch beside the default torchvision "
            f"does this; install both from the same source, e.g. pip install --force-reinstall "
            f"torch torchvision"
        )
