"""Recordings -> tokens in time, with the preprocessing that travels with the encoder."""

from __future__ import annotations

from torch import Tensor, device, nn

from jepa_modalities.adapters.ecg.preprocess import ECGPreprocess, Signals
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.positions import grid_positions


def cut(values: Tensor, patch: int, by_lead: bool) -> Tensor:
    """Cut signals into pieces that do not overlap.

    Args:
        values: (batch, leads, samples), samples divisible by `patch`.
        patch: samples per token.
        by_lead: a token per lead and time, else all leads in one token.

    Returns:
        (batch, time, leads * patch), each flattened as (lead, sample), so that a linear layer on it
        is a convolution with kernel = stride = patch; by lead (batch, leads * time, patch), the
        lead slowest.
    """
    pieces = values.unflatten(2, (-1, patch))  # (batch, leads, time, patch)
    return pieces.flatten(1, 2) if by_lead else pieces.transpose(1, 2).flatten(2)


class ECGTokenizer(nn.Module):
    """Normalise and cut signals of any length; saved inside the encoder file.

    Args:
        preprocess: with its constants per lead.
        patch: samples per token, at the encoder's rate.
        by_lead: a token per lead and time, else all leads in one token.
    """

    def __init__(self, preprocess: ECGPreprocess, patch: int, by_lead: bool = False) -> None:
        super().__init__()
        self.preprocess, self.patch, self.by_lead = preprocess, patch, by_lead
        self._positions: dict[tuple[int, device], Tensor] = {}

    @property
    def leads(self) -> int:
        """Leads of the encoder."""
        return len(self.preprocess.config.leads)

    def forward(self, raw: Tensor, group: Tensor | None = None) -> Tokens:
        """Tokens of conformed signals; NaN means that there is nothing.

        Absent leads are zeros in joint tokens and padding as tokens of their own; time behind the
        end of a record is padding.

        Args:
            raw: (batch, leads, samples) in physical units, at the encoder's rate.
            group: whose constants, (batch,), see `ECGPreprocess`.

        Raises:
            ValueError: another number of axes or leads, or less than one token.
        """
        return self.of_signals(self.preprocess(raw, group))

    def of_signals(self, signals: Signals) -> Tokens:
        """Tokens of preprocessed signals; what has no samples is marked as padding."""
        samples = signals.values.shape[2] // self.patch * self.patch
        if not samples:
            raise ValueError(
                f"recordings of {signals.values.shape[2]} samples at "
                f"{self.preprocess.config.fs:g} Hz are shorter than one token of {self.patch} "
                f"samples"
            )
        tokens = self.tokens(signals.values[..., :samples])
        there = signals.time[:, :samples].unflatten(1, (-1, self.patch)).any(2)
        if self.by_lead:
            there = (signals.lead[:, :, None] & there[:, None]).flatten(1)
        return tokens if bool(there.all()) else Tokens(tokens.values, tokens.positions, there)

    def tokens(self, values: Tensor) -> Tokens:
        """Tokens of normalised whole crops, (batch, leads, samples): no padding, no waiting."""
        place = self._grid(values.shape[2] // self.patch, values.device)
        return Tokens(cut(values, self.patch, self.by_lead), place)

    def _grid(self, time: int, where: device) -> Tensor:
        key = (time, where)
        if key not in self._positions:
            sizes = (self.leads, time) if self.by_lead else (time,)
            self._positions[key] = grid_positions(*sizes).to(where)
        return self._positions[key]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_positions": {}}
