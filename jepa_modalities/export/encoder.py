"""The encoder file: weights, preprocessing and configuration in one safetensors file, no pickle."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.config import RunConfig
from jepa_modalities.core.batch import Latents
from jepa_modalities.core.registry import modalities
from jepa_modalities.eval.features import extract
from jepa_modalities.settings import from_dict

FORMAT = "1"


class PretrainedEncoder(nn.Module):
    """An encoder with its preprocessing inside.

    Attributes:
        config: of the run it comes from.
        tokenizer: raw samples -> tokens.
        encoder: tokens -> latents.
        note: how the weights were chosen; empty for the end of training.
    """

    def __init__(
        self, config: Any, tokenizer: nn.Module, encoder: nn.Module, note: str = ""
    ) -> None:
        super().__init__()
        self.config, self.note = config, note
        self.tokenizer, self.encoder = tokenizer, encoder

    @property
    def dim(self) -> int:
        """Width of the latents."""
        return int(self.config.encoder.dim)

    def forward(self, raw: Tensor) -> Latents:
        """Latents of preprocessed raw samples, (batch, tokens, dim)."""
        latents: Latents = self.encoder(self.tokenizer(raw))
        return latents

    def embed(
        self, raw: Any, pooling: str | None = None, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Features of a user's own data; warns where the data lack what the encoder knows.

        Args:
            raw: a path, an array or a tensor, as the modality's `read` takes it.
            pooling: a name from `eval.features.POOLINGS`; the run's own if not given.
            batch_size: samples per forward pass.

        Returns:
            (samples, width), float32.
        """
        features, remarks = self.embed_with_remarks(raw, pooling, batch_size)
        for remark in remarks:
            warnings.warn(remark, stacklevel=2)
        return features

    def embed_with_remarks(
        self, raw: Any, pooling: str | None = None, batch_size: int = 256
    ) -> tuple[NDArray[np.float32], list[str]]:
        """`embed`, and what it would warn of (ECG: leads that are missing) instead of the warning.

        Returns:
            Features, (samples, width), float32; and sentences, none where all is well.
        """
        name = pooling or self.config.evaluate.pooling
        modality = modalities[self.config.modality]
        samples = modality.read(self.config, raw)
        features = extract(self.encoder, self.tokenizer, samples, [name], batch_size)
        remarks = modality.remarks(self.config, samples) if hasattr(modality, "remarks") else []
        return features[name], remarks


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the mode that any new file gets; safetensors gives 0600.

    Raises:
        OSError: the disk is full or the folder is read-only.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, about)
    except SafetensorError as error:
        full = "os error 28" in str(error) or "No space left" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
    path.chmod(mode)


def save_encoder(
    path: Path,
    encoder: Mapping[str, Tensor],
    tokenizer: Mapping[str, Tensor],
    config: RunConfig,
    note: str = "",
) -> None:
    """Write the encoder file atomically.

    Args:
        path: of the file.
        encoder: state of the encoder, on the CPU.
        tokenizer: state of the tokenizer, on the CPU.
        config: of the run.
        note: how these weights were chosen.
    """
    tensors = {f"encoder.{name}": value.contiguous() for name, value in encoder.items()}
    tensors |= {f"tokenizer.{name}": value.contiguous() for name, value in tokenizer.items()}
    about = {"format": FORMAT, "config": json.dumps(asdict(config)), "note": note}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_tensors(temporary, tensors, about)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_encoder(path: Path, device: str | torch.device = "cpu") -> PretrainedEncoder:
    """Read an encoder file; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an encoder file, damaged, of a newer format, or with a configuration that
            its weights do not fit.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no encoder file at {path}; give a run folder or a .safetensors file"
        )
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {about.get('format')!r}, expected {FORMAT!r}: it was not written "
            f"by this version of jepa_modalities"
        )
    config = parse_config(about.get("config", ""), str(path))
    try:
        _check_claim(config, tensors)
        pretrained = _built(config, about.get("note", ""))
        pretrained.load_state_dict(tensors)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # settings that fit their types can still make no network
        raise ValueError(
            f"{path}: its settings and weights make no encoder ({error}); load another copy"
        ) from error
    return pretrained.eval().to(device)


def parse_config(text: str, where: str) -> Any:
    """The configuration of a run from its JSON, of its modality's own class.

    Args:
        text: JSON.
        where: for messages.

    Raises:
        ValueError: no JSON, no modality that there is, or unknown settings.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON file: {error}") from error
    if not isinstance(content, dict) or "modality" not in content:
        raise ValueError(f"{where} holds no configuration of a run: it names no 'modality'")
    name = content["modality"]
    if name not in list(modalities):
        raise ValueError(
            f"{where}: no modality named {name!r}; there are {', '.join(modalities)}: install the "
            f"package that brings it"
        )
    return from_dict(modalities[name].Config, content, where)


def _built(config: Any, note: str = "") -> PretrainedEncoder:
    """An encoder with weights that are still to be loaded."""
    modality = modalities[config.modality]
    encoder = build_encoder(config, modality.geometry(config), modality.embedding(config))
    return PretrainedEncoder(config, modality.tokenizer(config), encoder, note)


def _check_claim(config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Hold a configuration's sizes to the weights that are there, before memory is taken.

    Raises:
        ValueError: it asks for more.
    """
    if config.encoder.depth > len(tensors):
        raise ValueError(
            f"encoder.depth = {config.encoder.depth}, but there are {len(tensors)} tensors"
        )
    modality, held = modalities[config.modality], sum(value.numel() for value in tensors.values())
    if hasattr(modality, "numbers") and modality.numbers(config) > held:
        raise ValueError(f"the first layer has more numbers by the settings than all {held:,}")
    with torch.device("meta"):  # shapes without numbers
        try:
            outline = _built(config).state_dict()
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
            # A first layer of another package that reads numbers while it is built: without.
            bare = build_encoder(config, modality.geometry(config), nn.Identity()).state_dict()
            outline = {f"encoder.{name}": value for name, value in bare.items()}
    for name, wanted in outline.items():
        found = tensors[name].numel() if name in tensors else 0
        if wanted.numel() > found:
            raise ValueError(
                f"{name} has shape {tuple(wanted.shape)} by the settings, but {found:,} numbers"
            )
