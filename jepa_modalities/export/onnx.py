"""Raw images -> pooled features as one ONNX file, checked against torch."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from jepa_modalities.eval.features import cells, encode, pool
from jepa_modalities.export.encoder import PretrainedEncoder
from jepa_modalities.export.place import optional

TOLERANCE = 1e-4
BATCHES = (1, 3)  # what is compared: another batch than the traced one of 2 shows a frozen axis
# A protobuf message ends at 2 GiB; larger weights go to a second file beside the graph.
ONE_FILE = 3 << 29


class PooledEncoder(nn.Module):
    """Images -> features, with every table that does not depend on the images filled in.

    Args:
        pretrained: an image encoder; copied.
        pooling: a name from `eval.features.POOLINGS`.
    """

    member: Tensor | None

    def __init__(self, pretrained: PretrainedEncoder, pooling: str) -> None:
        super().__init__()
        self.pretrained = copy.deepcopy(pretrained).cpu().eval()
        self.pooling = pooling
        with torch.no_grad():  # also fills the position caches: the graph then holds constants
            latents = self.pretrained.encoder(
                self.pretrained.tokenizer(example(pretrained, 2)), blocks=True
            )
        member = cells(latents.positions) if pooling.endswith("quadrants") else None
        self.register_buffer("member", member, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width), 0..255 -> (batch, width)."""
        tokens = self.pretrained.tokenizer(images)
        latents = encode(self.pretrained.encoder, tokens, [self.pooling])
        if self.member is None:
            return pool(latents, self.pooling)
        # `pool` finds the cells from the positions, which a graph cannot; here they are known, and
        # each is a mean over its own tokens.
        name = f"{self.pooling.removesuffix('quadrants')}mean"
        valid = self.member[:, None].expand(-1, images.shape[0], -1)
        parts = [pool(latents, name, cell) for cell in valid]
        stacked = torch.stack(parts, 1)  # (batch, cells, blocks * width)
        count = len(latents.blocks) if latents.blocks else 1
        blocks = stacked.reshape(*stacked.shape[:2], count, -1)
        return blocks.transpose(1, 2).flatten(1)  # blocks slowest, then cells


def example(pretrained: PretrainedEncoder, batch: int, seed: int = 0) -> Tensor:
    """Random uint8 images of the encoder's size, (batch, channels, height, width)."""
    data = pretrained.config.data
    shape = (batch, data.channels, *data.size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def export_onnx(
    pretrained: PretrainedEncoder,
    out: str | Path,
    pooling: str = "mean",
    dtype: Literal["uint8", "float32"] = "uint8",
    exporter: Literal["auto", "dynamo", "torchscript"] = "auto",
) -> Path:
    """Write an ONNX graph: `images` (batch, channels, height, width) in 0..255 -> `features`.

    Normalisation is inside; the batch is free, the other axes are the encoder's. onnxruntime must
    give torch's features within 1e-4 (of the largest one where that is above 1) for batches of 1
    and 3, else nothing is written.

    Args:
        pretrained: an image encoder.
        out: path of the .onnx file. Encoders above 1.5 GiB put their weights beside it (`.data`).
        pooling: a name from `eval.features.POOLINGS`.
        dtype: of the graph's input.
        exporter: torch's newer or older exporter; "auto" tries the newer one first.

    Returns:
        The path.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: no image encoder, or an unknown pooling.
        RuntimeError: the graph's features differ from torch's.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional(name, "onnx")
    if pretrained.config.modality != "image":
        raise ValueError(
            f"ONNX export takes image encoders, this one is for {pretrained.config.modality!r}; "
            f"use --format safetensors or hub"
        )
    out = Path(out)
    module = PooledEncoder(pretrained, pooling).eval()
    images = example(pretrained, 2).to(getattr(torch, dtype))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(module, images, temporary / out.name, exporter)
        _verify(module, pretrained, temporary / out.name, images.dtype)
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == out.name):
            os.replace(file, out.parent / file.name)  # the graph last: it names the weights
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _write(module: nn.Module, images: Tensor, path: Path, exporter: str) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about torch's own internals
        if exporter != "torchscript":
            try:
                return _write_dynamo(module, images, path)
            except Exception:  # torch raises many kinds here; the older exporter may still do it
                if exporter == "dynamo":
                    raise
        torch.onnx.export(
            module,
            (images,),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["features"],
            dynamic_axes={"images": {0: "batch"}, "features": {0: "batch"}},
        )


def _write_dynamo(module: nn.Module, images: Tensor, path: Path) -> None:
    # Strict tracing reads the Python code, so that len(x) stays the free batch size.
    batch = torch.export.Dim("batch")
    shapes = ({0: batch},)
    program = torch.export.export(module, (images,), dynamic_shapes=shapes, strict=True)
    graph: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["features"],
    )
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    graph.save(str(path), external_data=size > ONE_FILE)


def _verify(
    module: nn.Module, pretrained: PretrainedEncoder, path: Path, dtype: torch.dtype
) -> None:
    runtime = optional("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in BATCHES:
        images = example(pretrained, batch, seed=batch).to(dtype)
        with torch.no_grad():
            expected = module(images).numpy()
        try:
            found = session.run(None, {"images": images.numpy()})[0]
        except Exception as error:  # onnxruntime has one exception class per status code
            raise RuntimeError(
                f"the ONNX graph fails on a batch of {batch}: {error}; export with a newer torch"
            ) from error
        scale = max(1.0, float(np.abs(expected).max()))
        if found.shape != expected.shape or not np.allclose(found, expected, 0, TOLERANCE * scale):
            raise RuntimeError(
                f"the ONNX graph gives other features than torch for a batch of {batch} (shape "
                f"{found.shape}, expected {expected.shape}); export with a newer torch"
            )
