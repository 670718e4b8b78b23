"""Weights go to timm and back with equal outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_modalities.adapters.base import build_encoder
from jepa_modalities.core.registry import modalities
from jepa_modalities.export.encoder import PretrainedEncoder, save_encoder
from jepa_modalities.export.timm_keys import (
    ARCHITECTURE,
    export_timm,
    from_timm,
    timm_arguments,
    to_timm,
)
from jepa_modalities.settings import changed

timm = pytest.importorskip("timm", reason="timm is not installed (extra `timm`)")

Make = Callable[..., PretrainedEncoder]
CHOICES = [{}, {"position": "learned"}, {"num_prefix": 2}, {"position_scale": 0.3}]


def normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return (images / 255 - mean[:, None, None]) / std[:, None, None]


def timm_model(pretrained: PretrainedEncoder, fc_norm: bool = False) -> Any:
    arguments = timm_arguments(pretrained.config, fc_norm)
    model = timm.create_model(ARCHITECTURE, **arguments)
    model.load_state_dict(to_timm(pretrained, fc_norm), strict=True)
    return model.eval()


@pytest.mark.parametrize("choice", CHOICES)
@torch.no_grad()
def test_timm_gives_the_same_tokens_and_mean(
    choice: dict[str, Any], encoder: Make, images: Tensor
) -> None:
    ours = encoder(**choice)
    theirs = timm_model(ours)
    latents = ours(images).tokens
    tokens = theirs.forward_features(normalised(images))[:, choice.get("num_prefix", 0) :]
    torch.testing.assert_close(tokens, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(normalised(images)), latents.mean(1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fc_norm_norms_the_mean(encoder: Make, images: Tensor) -> None:
    ours = encoder()
    last = ours.encoder(ours.tokenizer(images), blocks=True).blocks[-1].mean(1)
    norm: Any = ours.encoder.norm
    expected = F.layer_norm(last, (24,), norm.weight, norm.bias, 1e-6)
    found = timm_model(ours, fc_norm=True)(normalised(images))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, ours(images).tokens.mean(1), atol=1e-2)


def test_every_named_size_gets_our_hidden_width() -> None:
    from jepa_modalities.adapters.image.config import ImageConfig
    from jepa_modalities.config import SIZES, encoder_size

    for name in SIZES:
        config = ImageConfig(encoder=encoder_size(name))
        arguments = timm_arguments(config)
        hidden = round(config.encoder.dim * config.encoder.mlp_ratio)
        assert int(arguments["embed_dim"] * arguments["mlp_ratio"]) == hidden


def test_conv_stem_and_other_modalities_are_refused(encoder: Make) -> None:
    with pytest.raises(ValueError, match=r"encoder.stem = 'conv'.*linear patch embedding"):
        to_timm(encoder(stem="conv"))
    ours = encoder()
    ours.config = replace(ours.config, modality="ecg")
    with pytest.raises(ValueError, match="image encoders only"):
        to_timm(ours)


def load_from_timm(model: Any, config: Any, **options: Any) -> PretrainedEncoder:
    modality = modalities["image"]
    ours = build_encoder(config, modality.geometry(config), modality.embedding(config))
    ours.load_state_dict(from_timm(model, config, **options), strict=True)
    tokenizer = modality.tokenizer(config)
    tokenizer.mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
    tokenizer.std.copy_(torch.tensor([0.2, 0.25, 0.3]))
    return PretrainedEncoder(config, tokenizer, ours).eval()


def random_timm(**arguments: Any) -> Any:
    plain = {"img_size": (12, 16), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    sizes = {**plain, "mlp_ratio": 2.0, **arguments}
    model = timm.create_model(ARCHITECTURE, **sizes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    "arguments",
    [
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {},  # class token, with a position of its own
        {"no_embed_class": True, "reg_tokens": 3},
        {"reg_tokens": 2, "init_values": 0.1},  # layer scale
    ],
)
@torch.no_grad()
def test_from_timm_is_exact(arguments: dict[str, Any], encoder: Make, images: Tensor) -> None:
    model = random_timm(**arguments)
    count = model.num_prefix_tokens
    config = encoder(position="learned", num_prefix=count).config
    ours = load_from_timm(model, config)
    expected = model.forward_features(normalised(images))
    found = ours(images)
    torch.testing.assert_close(found.tokens, expected[:, count:], atol=1e-5, rtol=1e-5)
    if count:
        assert found.prefix is not None
        torch.testing.assert_close(found.prefix, expected[:, :count], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_round_trip_keeps_the_sincos_position(encoder: Make, images: Tensor) -> None:
    ours = encoder(num_prefix=1)
    again = load_from_timm(timm_model(ours), ours.config)
    torch.testing.assert_close(again(images).tokens, ours(images).tokens, atol=0, rtol=0)


def test_class_token_is_refused_or_dropped(encoder: Make) -> None:
    model = random_timm()
    config = encoder(position="learned").config
    with pytest.raises(ValueError, match=r"1 class and register .*drop_class_token=True"):
        from_timm(model, config)
    state = from_timm(model, config, drop_class_token=True)
    assert "prefix" not in state
    torch.testing.assert_close(state["position.table"], model.pos_embed[0, 1:].detach())


def test_fc_norm_of_timm_is_told(encoder: Make) -> None:
    model = random_timm(class_token=False, global_pool="avg")
    with pytest.warns(UserWarning, match="pooled features differ"):
        state = from_timm(model, encoder(position="learned").config)
    torch.testing.assert_close(state["norm.weight"], model.fc_norm.weight.detach())


def test_what_does_not_fit_is_named(encoder: Make) -> None:
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    model = random_timm(**options)
    with pytest.raises(ValueError, match=r"encoder.position = 'learned'"):
        from_timm(model, encoder().config)
    with pytest.raises(ValueError, match=r"has 2 heads, encoder.heads = 3"):
        from_timm(model, encoder(position="learned", heads=3).config)
    with pytest.raises(ValueError, match=r"blocks.2.attn.qkv.weight: found nothing"):
        from_timm(model, encoder(position="learned", depth=3).config)
    with pytest.raises(ValueError, match=r"q_norm.*expected nothing"):
        from_timm(random_timm(qk_norm=True, **options), encoder(position="learned").config)
    with pytest.raises(ValueError, match="eps"):
        rough = random_timm(norm_layer="layernorm", **options)
        rough.norm.eps = 1e-5
        from_timm(rough, encoder(position="learned").config)
    with pytest.raises(ValueError, match="Linear has no blocks"):
        from_timm(torch.nn.Linear(2, 2), encoder(position="learned").config)


def test_timms_own_choice_of_norm_loads_strictly(encoder: Make) -> None:
    ours = encoder()
    plain = {
        name: value for name, value in timm_arguments(ours.config).items() if name != "fc_norm"
    }
    model = timm.create_model(ARCHITECTURE, **plain)  # timm then chooses fc_norm
    model.load_state_dict(to_timm(ours, fc_norm=True), strict=True)


@torch.no_grad()
def test_exported_folder_loads_by_timm_alone(encoder: Make, images: Tensor, tmp_path: Path) -> None:
    ours = encoder(num_prefix=2)
    file = tmp_path / "encoder.safetensors"
    save_encoder(file, ours.encoder.state_dict(), ours.tokenizer.state_dict(), ours.config)
    out = export_timm(tmp_path, tmp_path / "exported")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    about = json.loads((out / "config.json").read_text())["pretrained_cfg"]
    mean, std = (torch.tensor(about[name])[:, None, None] for name in ("mean", "std"))
    found = model((images / 255 - mean) / std)
    torch.testing.assert_close(found, ours(images).tokens.mean(1), atol=1e-5, rtol=1e-5)
    assert "someone" not in (out / "config.json").read_text()
    with pytest.raises(FileExistsError, match="exported"):
        export_timm(file, out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_positions_of_a_changed_scale_are_not_taken_for_ours(encoder: Make) -> None:
    ours = encoder(position_scale=0.5)
    other = changed(ours.config, {"encoder.position_scale": 1.0})
    with pytest.raises(ValueError, match="not the fixed sin-cos code"):
        from_timm(timm_model(ours), other)
