"""Frozen features: one pass through the encoder, every pooling, kept on disk by fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents, Tokens, move

Array = NDArray[np.float32]

# `all_*` pools the output of every block, `last4_mean` of the last four (I-JEPA, appendix A.1),
# `all_hidden_*` what every block's MLP computes inside (mlp_ratio 4: four times as wide).
POOLINGS: tuple[str, ...] = (
    "mean",
    "mean_std_max",
    "quadrants",
    "grid4",
    "last4_mean",
    "all_mean",
    "all_mean_std_max",
    "all_quadrants",
    "all_hidden_mean",
    "all_hidden_mean_std_max",
    "all_hidden_quadrants",
    "all_hidden_tokens",
    "tokens",
    "all_tokens",
)
HIDDEN = "all_hidden_"


class Sliceable(Protocol):
    """A tensor, an array or an open HDF5 data set: anything with a length that can be sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...


def pool(latents: Latents, pooling: str, valid: Tensor | None = None) -> Tensor:
    """One vector per sample from the tokens of a whole, unmasked sample.

    Args:
        latents: `tokens` (batch, tokens, dim); `blocks` too for `last4_mean` and `all_*`. Block
            outputs come from before the last norm, so a parameter-free layer norm goes over them.
            `hidden` for `all_hidden_*`, which are taken as they are; see `encode`.
        pooling: one of `POOLINGS`, or several joined by "+", side by side. `quadrants` splits every
            axis of `latents.positions` in the middle and takes the mean of each of the 2^axes
            cells, first axis slowest; `grid4` splits it into four.
        valid: False where a token is padding, bool, (batch, tokens): such tokens do not count.

    Returns:
        (batch, width); blocks slowest, then the parts (mean, std, max or cells), then channels.

    Raises:
        ValueError: unknown pooling, masked latents, or no block outputs where they are needed.
    """
    if "+" in pooling:
        parts = pooling.split("+")
        return torch.cat([pool(latents, part, valid) for part in parts], dim=-1)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is not known; choose one of {', '.join(POOLINGS)}")
    if latents.tokens.ndim != 3:
        raise ValueError(
            f"latents.tokens have shape {tuple(latents.tokens.shape)}; expected (batch, tokens, "
            f"dim): encode whole samples, without masks"
        )
    if pooling.startswith(HIDDEN):
        if not latents.hidden:
            raise ValueError(
                f"pooling {pooling!r} needs the activations inside the MLPs; call "
                f"encoder(tokens, hidden=True) of an encoder of transformer blocks"
            )
        kind = pooling.removeprefix(HIDDEN)
        return torch.cat([_pool(x, latents.positions, kind, valid) for x in latents.hidden], -1)
    if not pooling.startswith(("all_", "last4_")):
        return _pool(latents.tokens, latents.positions, pooling, valid)
    if not latents.blocks:
        raise ValueError(
            f"pooling {pooling!r} needs every block's output; call encoder(tokens, blocks=True)"
        )
    family, kind = pooling.split("_", 1)
    blocks = latents.blocks[-4:] if family == "last4" else latents.blocks
    normed = (F.layer_norm(block, block.shape[-1:]) for block in blocks)
    return torch.cat([_pool(x, latents.positions, kind, valid) for x in normed], dim=-1)


def _pool(x: Tensor, positions: Tensor, kind: str, valid: Tensor | None) -> Tensor:
    """`mean`, `mean_std_max`, `quadrants`, `grid4` or `tokens` of (batch, tokens, dim)."""
    if kind == "tokens":
        return (x if valid is None else x * valid[..., None]).flatten(1)
    weight = x.new_ones(1, x.shape[1]) if valid is None else valid.to(x.dtype)
    if kind in ("quadrants", "grid4"):
        parts = 2 if kind == "quadrants" else 4
        member = cells(positions.to(x.device), parts).to(x.dtype)  # (cells, tokens)
        weight = weight[:, None] * member
        # A cell whose tokens are all padding counts 0 tokens and stays zero.
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
        return (weight @ x).flatten(1)
    weight = (weight / weight.sum(-1, keepdim=True).clamp(min=1))[..., None]
    mean = (weight * x).sum(1)
    if kind == "mean":
        return mean
    # The floor keeps gradients finite where all tokens are equal.
    std = (weight * (x - mean[:, None]).square()).sum(1).clamp_min(1e-24).sqrt()
    if valid is None:
        return torch.cat([mean, std, x.amax(1)], dim=-1)
    highest = x.masked_fill(~valid[..., None], -torch.inf).amax(1)
    # A sample of nothing but padding stays zero.
    return torch.cat([mean, std, highest.masked_fill(~valid.any(1, keepdim=True), 0)], dim=-1)


def cells(positions: Tensor, parts: int = 2) -> Tensor:
    """Which part of every axis a token lies in: bool membership, (parts^axes, tokens).

    An axis is split into equal parts of its range; in halves, the middle line of an odd grid goes
    to the first. An axis on which all tokens share one coordinate is not split.

    Args:
        positions: (tokens, axes).
        parts: of every axis; a grid with fewer tokens leaves cells empty.
    """
    low, high = positions.amin(0), positions.amax(0)
    split = (high > low).nonzero().squeeze(-1)
    share = ((positions - low) / (high - low).clamp_min(1e-12))[:, split] * parts
    part = (share.ceil() - 1).clamp(0, parts - 1).long()  # (tokens, split axes)
    place = parts ** torch.arange(len(split) - 1, -1, -1, device=positions.device)
    number = (part * place).sum(-1)
    return number == torch.arange(parts ** len(split), device=positions.device)[:, None]


def unknown_poolings(names: Sequence[str]) -> list[str]:
    """The names that `pool` does not know, in ascending order."""
    return sorted(name for name in set(names) if set(name.split("+")) - set(POOLINGS))


def encode(encoder: nn.Module, tokens: Tokens, poolings: Sequence[str]) -> Latents:
    """Latents of whole samples with all that these poolings look at."""
    parts = [part for name in poolings for part in name.split("+")]
    blocks = any(part.startswith(("all_", "last4_")) for part in parts)
    inside = any(part.startswith(HIDDEN) for part in parts)
    more = {"hidden": True} if inside else {}  # encoders without an MLP do not know it
    latents: Latents = encoder(tokens, blocks=blocks, **more)
    return latents


def extract(
    encoder: nn.Module,
    tokenize: Callable[[Any], Tokens],
    raw: Sliceable,
    poolings: Sequence[str] = ("mean",),
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, Array]:
    """All poolings of all samples from ONE pass through the frozen encoder.

    Args:
        encoder: `encoder(tokens, blocks=True) -> Latents`; used in eval mode, left as it was found.
        tokenize: raw batch -> Tokens.
        raw: the samples, (samples, ...); only slices of `batch_size` samples are in use at a time.
        poolings: names from `POOLINGS`.
        batch_size: samples per forward pass.
        device: where to run; None for the device of the encoder's weights.

    Returns:
        pooling -> (samples, width), float32.

    Raises:
        ValueError: no samples, unknown poolings, or features that are not finite.
    """
    if not len(raw):
        raise ValueError("raw holds no samples; features need at least one")
    if unknown := unknown_poolings(poolings):
        raise ValueError(f"poolings {unknown} are not known; choose from {', '.join(POOLINGS)}")
    weight = next(encoder.parameters(), None)
    place = device if device is not None else "cpu" if weight is None else weight.device
    out: dict[str, Array] = {}
    with _frozen(encoder):
        for start in range(0, len(raw), batch_size):
            tokens: Tokens = move(tokenize(raw[start : start + batch_size]), place)
            latents = encode(encoder, tokens, poolings)
            for name in poolings:
                part = pool(latents, name, tokens.valid).float().cpu().numpy()
                if name not in out:
                    out[name] = np.empty((len(raw), part.shape[1]), dtype=np.float32)
                out[name][start : start + len(part)] = part
    for name, values in out.items():
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"features {name!r} of {int((~finite).sum())} samples are NaN or infinite (first: "
                f"sample {int((~finite).argmax())}); the encoder's weights or the input are broken"
            )
    return out


@contextmanager
def _frozen(encoder: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every submodule's mode is restored, also after an error."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def fingerprint(encoder: nn.Module | None, raw: Sliceable, extra: str = "") -> str:
    """SHA-256 over everything that the features depend on, 64 hexadecimal digits.

    Args:
        encoder: its weights, buffers and plain settings (number of heads, scales); None for arms
            without an encoder.
        raw: the samples, read in slices.
        extra: what else matters, such as the tokenizer's settings as JSON.
    """
    digest = hashlib.sha256(extra.encode())
    if encoder is not None:
        for name, module in encoder.named_modules():
            digest.update(f"{name}:{type(module).__qualname__}:{_settings(module)}".encode())
        for name, value in [*encoder.named_parameters(), *encoder.named_buffers()]:
            digest.update(name.encode())
            _add_array(digest, value.detach().cpu())
    digest.update(str(len(raw)).encode())
    for start in range(0, len(raw), 1000):
        _add_array(digest, raw[start : start + 1000])
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    plain = (bool, int, float, str, tuple)
    return sorted(
        (key, value)
        for key, value in vars(module).items()
        if isinstance(value, plain) and key != "training" and not key.startswith("_")
    )


def _add_array(digest: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        # Bytes, because numpy has no bfloat16.
        kind, shape = str(part.dtype), tuple(part.shape)
        values = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    else:
        values = np.ascontiguousarray(part)
        if values.dtype == object:
            raise TypeError("raw data of Python objects have no fingerprint; pass a numeric array")
        kind, shape = str(values.dtype), values.shape
    digest.update(f"{kind}{shape}".encode())
    digest.update(values.data)


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk, one .npy per (arm, split, pooling, fingerprint); stale files never match.

    Attributes:
        folder: made when the first file is written.
    """

    folder: Path | str

    def path(self, arm: str, split: str, pooling: str, mark: str) -> Path:
        """Where the array of this key lies, whether or not it exists."""
        name = "--".join(
            quote(part, safe="+ ").replace("--", "%2D%2D") for part in (arm, split, pooling)
        )
        return Path(self.folder) / f"{name}--{mark[:32]}.npy"

    def load(self, arm: str, split: str, pooling: str, mark: str) -> Array | None:
        """The stored array, (samples, width), or None where there is none with this fingerprint."""
        path = self.path(arm, split, pooling, mark)
        return np.load(path, allow_pickle=False) if path.exists() else None

    def save(self, arm: str, split: str, pooling: str, mark: str, values: Array) -> Path:
        """Write atomically: a reader sees the whole file or none."""
        path = self.path(arm, split, pooling, mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def features(
        self,
        arm: str,
        split: str,
        poolings: Sequence[str],
        mark: str,
        compute: Callable[[Sequence[str]], Mapping[str, Array]],
    ) -> dict[str, Array]:
        """All poolings, from disk where they lie there; one call computes all that are missing.

        Args:
            arm: such as "encoder".
            split: such as "train".
            poolings: the names wanted.
            mark: from `fingerprint`.
            compute: missing poolings -> arrays, such as a partial `extract`.
        """
        found = {name: self.load(arm, split, name, mark) for name in poolings}
        if missing := [name for name, values in found.items() if values is None]:
            for name, values in compute(missing).items():
                self.save(arm, split, name, mark, values)
                found[name] = values
        return {name: found[name] for name in poolings}  # type: ignore[misc]
