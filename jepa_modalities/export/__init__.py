"""Encoders for other tools: safetensors, timm, ONNX, hub."""

from __future__ import annotations

from pathlib import Path


def export(run: Path, kind: str, out: Path) -> Path:
    """Write a run's encoder in another format.

    Args:
        run: run folder or encoder file.
        kind: "safetensors", "timm", "onnx" or "hub".
        out: file; for "timm" and "hub" a folder.

    Raises:
        ValueError: unknown kind, or an encoder that the format cannot hold.
    """
    if kind == "safetensors":
        from jepa_modalities.export.portable import export_safetensors

        return export_safetensors(run, out)
    if kind == "timm":
        from jepa_modalities.export.timm_keys import export_timm

        return export_timm(run, out)
    if kind == "onnx":
        from jepa_modalities.export.encoder import load_encoder
        from jepa_modalities.export.onnx import export_onnx
        from jepa_modalities.export.place import encoder_file

        pretrained = load_encoder(encoder_file(run))
        return export_onnx(pretrained, out, pretrained.config.evaluate.pooling)
    if kind == "hub":
        from jepa_modalities.export.hub import export_hub

        return export_hub(run, out)
    raise ValueError(f"format {kind!r} is not known; choose safetensors, timm, onnx or hub")
