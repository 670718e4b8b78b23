"""Encoders for other tools: safetensors, timm, ONNX, hub."""

from __future__ import annotations

from pathlib import Path


def export(run: Path, kind: str, out: Path) -> Path:
    """Write a run's encoder in another format.

    Args:
        run: run folder or encoder file.
        kind: "safetensors", "timm", "onnx" or "hub".
        out: file, or folder for "hub".

    Raises:
        ValueError: unknown kind, or an encoder that the format cannot hold.
    """
    from jepa_modalities.export.encoder import load_encoder

    source = run / "encoder.safetensors" if run.is_dir() else run
    if kind == "safetensors":
        load_encoder(source)  # complains before anything is copied
        out.write_bytes(source.read_bytes())
        return out
    if kind == "timm":
        from jepa_modalities.export.timm_keys import export_timm

        return Path(export_timm(source, out))
    if kind == "onnx":
        from jepa_modalities.export.onnx import export_onnx

        return Path(export_onnx(load_encoder(source), out))
    if kind == "hub":
        from jepa_modalities.export.hub import export_hub

        return Path(export_hub(run, out))
    raise ValueError(f"format {kind!r} is not known; choose safetensors, timm, onnx or hub")
