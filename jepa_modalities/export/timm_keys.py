"""Image encoders to and from timm's VisionTransformer, with equal outputs."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.core.positions import grid_positions, sincos
from jepa_modalities.core.registry import modalities
from jepa_modalities.export.encoder import PretrainedEncoder, load_encoder
from jepa_modalities.export.place import HasPath, encoder_file, fresh_folder

# Any plain ViT of timm would do: the arguments set every size.
ARCHITECTURE = "vit_base_patch16_224"


def timm_arguments(config: Any, fc_norm: bool = False) -> dict[str, Any]:
    """Arguments of `timm.create_model(ARCHITECTURE, ...)` for an encoder's sizes.

    Args:
        config: of the run.
        fc_norm: timm's own choice with average pooling is to norm the mean of the tokens. Here
            tokens are normed first, so False gives equal pooled features; True suits a recipe that
            fine-tunes with timm's order.

    Raises:
        ValueError: an encoder that timm cannot hold.
    """
    _refuse_other(config)
    encoder, data = config.encoder, config.data
    hidden = round(encoder.dim * encoder.mlp_ratio)
    ratio = hidden / encoder.dim
    if int(encoder.dim * ratio) != hidden:  # timm rounds down, we round to the nearest
        ratio = (hidden + 0.5) / encoder.dim
    arguments = {
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": fc_norm,
        "num_classes": 0,
        "img_size": list(data.size),
        "patch_size": data.patch,
        "in_chans": data.channels,
        "embed_dim": encoder.dim,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": ratio,
    }
    if encoder.num_prefix:  # our prefix tokens carry no position, and pooling leaves them out
        arguments |= {"reg_tokens": encoder.num_prefix, "no_embed_class": True}
    return arguments


def _refuse_other(config: Any) -> None:
    if config.modality != "image":
        raise ValueError(
            f"timm holds image encoders only, this one is for {config.modality!r}; export it with "
            f"--format safetensors or hub"
        )
    if config.encoder.stem != "linear":
        raise ValueError(
            f"encoder.stem = {config.encoder.stem!r}: timm's VisionTransformer has no overlapping "
            f"stem with group norm, only a linear patch embedding; export with --format onnx or hub"
        )


def to_timm(pretrained: PretrainedEncoder, fc_norm: bool = False) -> dict[str, Tensor]:
    """State of the timm model that `timm_arguments` describes; loads with strict=True.

    On images normalised with the tokenizer's mean and std, timm's `forward_features` gives our
    latents (with `fc_norm`, before the norm) and its pooled output our pooling "mean". The
    sin-cos table is written out as `pos_embed`; the mask token stays behind.

    Args:
        pretrained: an image encoder with a linear stem.
        fc_norm: as in `timm_arguments`.

    Raises:
        ValueError: an encoder that timm cannot hold.
    """
    config = pretrained.config
    _refuse_other(config)
    state = {
        name: value.detach().cpu().clone()
        for name, value in pretrained.encoder.state_dict().items()
        if name.startswith("blocks.")
    }
    encoder: Any = pretrained.encoder
    shape = (config.encoder.dim, config.data.channels, config.data.patch, config.data.patch)
    # A patch is flattened as (channel, row, column): a linear layer on it is a convolution.
    state["patch_embed.proj.weight"] = encoder.embed.weight.detach().cpu().reshape(shape).clone()
    state["patch_embed.proj.bias"] = encoder.embed.bias.detach().cpu().clone()
    with torch.no_grad():
        table = encoder.position(_grid(config).to(encoder.norm.weight.device))
    state["pos_embed"] = table.detach().cpu().clone()[None]
    if encoder.prefix is not None:
        state["reg_token"] = encoder.prefix.detach().cpu().clone()
    name = "fc_norm" if fc_norm else "norm"
    state[f"{name}.weight"] = encoder.norm.weight.detach().cpu().clone()
    state[f"{name}.bias"] = encoder.norm.bias.detach().cpu().clone()
    return state


def _grid(config: Any) -> Tensor:
    return grid_positions(*(side // config.data.patch for side in config.data.size))


def from_timm(model: nn.Module, config: Any, drop_class_token: bool = False) -> dict[str, Tensor]:
    """State of our TokenEncoder with the weights of a timm VisionTransformer.

    Position: timm's table is learned, so `encoder.position` must be "learned"; "sincos" only where
    the table is that code. Class and register tokens, with the position added to them, become our
    prefix tokens in this order, so `encoder.num_prefix` must be their number. Layer scale is folded
    into the layer before it. The classifier is left out. timm's mean and std belong to the
    tokenizer, not to this state.

    Args:
        model: of timm, `VisionTransformer` with plain blocks.
        config: the image run whose encoder shall hold the weights.
        drop_class_token: leave the class token out. The patch tokens then attend to one token less,
            so outputs change.

    Returns:
        A state for `load_state_dict(strict=True)`; the mask token is zero.

    Raises:
        ValueError: sizes or parts that differ; names them.
    """
    _refuse_other(config)
    _check_functions(model, config)
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    result = _fold_layer_scale(state)
    kernel = result.pop("patch_embed.proj.weight")
    result["embed.weight"] = kernel.flatten(1)
    if "patch_embed.proj.bias" in result:
        result["embed.bias"] = result.pop("patch_embed.proj.bias")
    if "fc_norm.weight" in result and "norm.weight" not in result:
        warnings.warn(
            "the timm model norms the mean of its tokens (fc_norm); here the same norm acts on "
            "each token before pooling, so pooled features differ",
            stacklevel=2,
        )
        result |= {f"norm.{part}": result.pop(f"fc_norm.{part}") for part in ("weight", "bias")}
    prefix, table = _positions(model, result, drop_class_token)
    if prefix.shape[1] != config.encoder.num_prefix:
        remedy = "" if drop_class_token else ", or drop a class token with drop_class_token=True"
        raise ValueError(
            f"the timm model has {prefix.shape[1]} class and register tokens, but "
            f"encoder.num_prefix = {config.encoder.num_prefix}; set it to {prefix.shape[1]}{remedy}"
        )
    if prefix.shape[1]:
        result["prefix"] = prefix
    if config.encoder.position == "learned":
        result["position.table"] = table
    else:
        _check_sincos(table, config)
    _check_shapes(result, config)
    return result


def _check_functions(model: Any, config: Any) -> None:
    """What the shapes of the weights do not tell."""
    for part in ("blocks", "patch_embed", "pos_embed"):
        if getattr(model, part, None) is None:
            raise ValueError(
                f"{type(model).__name__} has no {part}; expected timm's VisionTransformer with "
                f"absolute positions"
            )
    heads = model.blocks[0].attn.num_heads
    if heads != config.encoder.heads:
        raise ValueError(
            f"the timm model has {heads} heads, encoder.heads = {config.encoder.heads}; set it so"
        )
    activation = getattr(model.blocks[0].mlp, "act", None)
    if not isinstance(activation, nn.GELU) or activation.approximate != "none":
        raise ValueError(f"the timm model's MLPs use {activation}, expected plain GELU")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm) and layer.eps != 1e-6:
            raise ValueError(f"{name} of the timm model has eps = {layer.eps}, expected 1e-06")


def _fold_layer_scale(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """gamma * (W x + b) = (gamma W) x + gamma b."""
    result = dict(state)
    for name in [name for name in state if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        gamma = result.pop(name)
        block, scale, _ = name.rsplit(".", 2)
        layer = f"{block}.attn.proj" if scale == "ls1" else f"{block}.mlp.fc2"
        result[f"{layer}.weight"] = gamma[:, None] * result[f"{layer}.weight"]
        result[f"{layer}.bias"] = gamma * result[f"{layer}.bias"]
    return result


def _positions(
    model: Any, state: dict[str, Tensor], drop_class_token: bool
) -> tuple[Tensor, Tensor]:
    """Take prefix (1, prefix, dim) and patch table (tokens, dim) out of a timm state."""
    table = state.pop("pos_embed")
    names = [name for name in ("cls_token", "reg_token") if name in state]
    prefix = torch.cat([table[:, :0], *(state[name] for name in names)], dim=1)
    if not model.no_embed_class:
        count = prefix.shape[1]
        prefix, table = prefix + table[:, :count], table[:, count:]
    if drop_class_token and "cls_token" in names:
        prefix = prefix[:, 1:]
    for name in names:
        del state[name]
    return prefix, table[0]


def _check_sincos(table: Tensor, config: Any) -> None:
    code = sincos(_grid(config), config.encoder.dim) * config.encoder.position_scale
    if table.shape != code.shape or not torch.allclose(table, code, atol=1e-5):
        raise ValueError(
            "the timm model's pos_embed is not the fixed sin-cos code of this grid; set "
            "encoder.position = 'learned' (and data.size and data.patch to the model's)"
        )


def _check_shapes(state: Mapping[str, Tensor], config: Any) -> None:
    modality = modalities["image"]
    with torch.device("meta"):
        encoder = build_encoder(config, modality.geometry(config), modality.embedding(config))
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [
        f"{name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        more = f"\n  ... and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(
            "the timm model does not fit the encoder; set encoder.* and data.* to its sizes:\n  "
            + "\n  ".join(wrong[:8])
            + more
        )


def export_timm(run: str | Path | HasPath, out: str | Path, fc_norm: bool = False) -> Path:
    """Write a folder that `timm.create_model("local-dir:OUT", pretrained=True)` loads.

    It holds `model.safetensors` and `config.json` in timm's own layout: `architecture`,
    `model_args` (the arguments of `create_model`) and `pretrained_cfg` with mean and std in 0..1.

    Args:
        run: a `Run`, its folder, or an encoder file.
        out: a new or empty folder.
        fc_norm: as in `timm_arguments`.

    Returns:
        The folder.

    Raises:
        FileExistsError: `out` holds something.
        ValueError: an encoder that timm cannot hold.
    """
    pretrained = load_encoder(encoder_file(run))
    arguments, state = timm_arguments(pretrained.config, fc_norm), to_timm(pretrained, fc_norm)
    data = pretrained.config.data
    tokenizer: Any = pretrained.tokenizer
    about = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": pretrained.dim,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [data.channels, *data.size],
            "fixed_input_size": True,
            "mean": [float(value) for value in tokenizer.mean],
            "std": [float(value) for value in tokenizer.std],
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,  # as our evaluation does
            "crop_mode": "center",
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "custom_load": False,
        },
    }
    with fresh_folder(Path(out)) as folder:
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(about, indent=1))
        shutil.copymode(folder / "config.json", folder / "model.safetensors")  # not 0600
    return Path(out)
