"""jepa_modalities: masked latent prediction for many kinds of data, with its controls beside it.

Public names are loaded on first use, so that `import jepa_modalities` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "pretrain": "jepa_modalities.api",
    "load": "jepa_modalities.api",
    "evaluate": "jepa_modalities.api",
    "recipes": "jepa_modalities.api",
    "Run": "jepa_modalities.api",
    "PretrainedEncoder": "jepa_modalities.api",
    "TabularJEPA": "jepa_modalities.estimator.transformer",
    "TabularJEPAClassifier": "jepa_modalities.estimator.supervised",
    "TabularJEPARegressor": "jepa_modalities.estimator.supervised",
    "ECGJEPA": "jepa_modalities.estimator.ecg",
}
__all__ = [
    "ECGJEPA",
    "PretrainedEncoder",
    "Run",
    "TabularJEPA",
    "TabularJEPAClassifier",
    "TabularJEPARegressor",
    "__version__",
    "evaluate",
    "load",
    "pretrain",
    "recipes",
]

if TYPE_CHECKING:
    from jepa_modalities.api import PretrainedEncoder, Run, evaluate, load, pretrain, recipes
    from jepa_modalities.estimator.ecg import ECGJEPA
    from jepa_modalities.estimator.supervised import TabularJEPAClassifier, TabularJEPARegressor
    from jepa_modalities.estimator.transformer import TabularJEPA


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'jepa_modalities' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
