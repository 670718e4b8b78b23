"""The ONNX graph gives torch's features for any batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_modalities.eval.features import POOLINGS, encode, pool
from jepa_modalities.export import onnx as graph
from jepa_modalities.export.encoder import PretrainedEncoder
from jepa_modalities.export.onnx import PooledEncoder, export_onnx

Make = Callable[..., PretrainedEncoder]


def run(path: Path, images: Tensor) -> tuple[Tensor, Any]:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), session


@pytest.fixture(scope="module", autouse=True)
def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra `onnx`)")


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_filled_in_module_pools_as_the_library(pooling: str, encoder: Make, images: Tensor) -> None:
    ours = encoder(num_prefix=1)
    expected = pool(encode(ours.encoder, ours.tokenizer(images), [pooling]), pooling)
    torch.testing.assert_close(PooledEncoder(ours, pooling)(images), expected)


@pytest.mark.parametrize(
    ("pooling", "choice", "dtype", "exporter"),
    [
        ("mean", {"num_prefix": 2, "depth": 1}, "uint8", "auto"),
        ("all_quadrants", {"stem": "conv"}, "float32", "dynamo"),
        ("mean_std_max", {"position": "learned"}, "uint8", "torchscript"),
        ("all_hidden_mean", {"num_prefix": 1, "depth": 2}, "uint8", "auto"),
    ],
)
def test_runtime_equals_torch(
    pooling: str,
    choice: dict[str, Any],
    dtype: str,
    exporter: Any,
    encoder: Make,
    images: Tensor,
    tmp_path: Path,
) -> None:
    ours = encoder(**choice)
    out = export_onnx(ours, tmp_path / "new" / "encoder.onnx", pooling, dtype, exporter)  # type: ignore[arg-type]
    assert [path.name for path in out.parent.iterdir()] == ["encoder.onnx"]
    for batch in (1, 3):
        given = images[:batch].to(getattr(torch, dtype))
        found, session = run(out, given)
        with torch.no_grad():
            latents = encode(ours.encoder, ours.tokenizer(given), [pooling])
        torch.testing.assert_close(found, pool(latents, pooling), atol=1e-4, rtol=0)
    (taken,) = session.get_inputs()
    assert taken.name == "images" and taken.shape[1:] == [3, 12, 16]
    assert isinstance(taken.shape[0], str)
    assert "uint8" in taken.type or dtype == "float32"


def test_another_graph_is_noticed(
    encoder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = encoder(), PooledEncoder(encoder(seed=1), "mean").eval()
    write = graph._write
    monkeypatch.setattr(graph, "_write", lambda module, *rest: write(wrong, *rest))
    with pytest.raises(RuntimeError, match="other features than torch for a batch of 1"):
        export_onnx(right, tmp_path / "encoder.onnx", exporter="torchscript")  # the faster one
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_batch_is_noticed(encoder: Make, tmp_path: Path) -> None:
    # The older exporter writes the traced batch size into the prefix tokens.
    with pytest.raises(RuntimeError, match=r"batch of (1|3)"):
        export_onnx(encoder(num_prefix=1), tmp_path / "encoder.onnx", exporter="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_graph(
    encoder: Make, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "ONE_FILE", 0)
    ours = encoder(depth=1)
    out = export_onnx(ours, tmp_path / "encoder.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder.onnx", "encoder.onnx.data"]
    found, _ = run(out, images)
    expected = ours.embed(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), "mean")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_missing_package_and_other_modality(
    encoder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = encoder()
    ours.config = replace(ours.config, modality="ecg")
    with pytest.raises(ValueError, match="takes image encoders, this one is for 'ecg'"):
        export_onnx(ours, tmp_path / "encoder.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "jepa_modalities\[onnx\]"'):
        export_onnx(encoder(), tmp_path / "encoder.onnx")
