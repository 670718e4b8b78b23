"""Tables -> tokens, one per feature, and the preprocessing that travels with the encoder."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.tabular.preprocess import TableArrays, TablePreprocess
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.positions import grid_positions


def pack(arrays: TableArrays) -> Tensor:
    """Both arrays as one tensor, (rows, features, 2), float32.

    Channel 0 is the number (0 where missing) or the category's code, channel 1 is 1 where a number
    is missing. Numeric features first.
    """
    gaps = np.isnan(arrays.numeric)
    values = np.concatenate(
        [np.where(gaps, np.float32(0), arrays.numeric), arrays.category.astype(np.float32)], axis=1
    )
    missing = np.pad(gaps.astype(np.float32), ((0, 0), (0, arrays.category.shape[1])))
    return torch.from_numpy(np.stack([values, missing], axis=2))


class TableTokenizer(nn.Module):
    """Applies a `TablePreprocess`; its tensors and JSON are buffers, so it is saved with weights.

    Args:
        preprocess: fitted; None for one that is filled from a state dict.
    """

    about: Tensor

    def __init__(self, preprocess: TablePreprocess | None = None) -> None:
        super().__init__()
        self._preprocess = preprocess
        self._positions: dict[tuple[int, torch.device], Tensor] = {}
        tensors, about = ({}, {}) if preprocess is None else preprocess.state()
        for name in ("center", "width", "quantiles"):
            self.register_buffer(name, tensors.get(name, torch.empty(0, dtype=torch.float64)))
        text = json.dumps(about).encode()
        self.register_buffer("about", torch.frombuffer(bytearray(text), dtype=torch.uint8).clone())

    @property
    def preprocess(self) -> TablePreprocess:
        """What was fitted on the training rows.

        Raises:
            ValueError: nothing was fitted or loaded yet, or what was loaded is damaged.
        """
        if self._preprocess is None:
            try:
                about = json.loads(bytes(self.about.cpu().numpy()))
                if about:
                    self._preprocess = TablePreprocess.from_state(dict(self.named_buffers()), about)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"this tokenizer's preprocessing is damaged ({type(error).__name__}: {error}); "
                    f"load another copy of the encoder file"
                ) from error
            if self._preprocess is None:
                raise ValueError("this tokenizer holds no preprocessing: load an encoder file")
        return self._preprocess

    def forward(self, table: Any) -> Tokens:
        """Tokens of a DataFrame, an array of raw columns, or a packed tensor.

        Args:
            table: what `TablePreprocess.transform` takes, or what `pack` makes.

        Returns:
            values (rows, features, 2) on the tokenizer's device.
        """
        packed = isinstance(table, Tensor) and table.ndim == 3
        values = table if packed else pack(self.preprocess.transform(table)).to(self.about.device)
        key = (values.shape[1], values.device)
        if key not in self._positions:
            self._positions[key] = grid_positions(key[0]).to(values.device)
        return Tokens(values, self._positions[key])

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Buffers take the size of what is loaded."""
        for name, buffer in list(self.named_buffers(recurse=False)):
            if prefix + name in state:
                self.register_buffer(
                    name, torch.empty_like(state[prefix + name], device=buffer.device)
                )
        self._preprocess = None
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_positions": {}}
