"""Encoders and first layers: the papers' parameter counts, cross patterns, windows, recurrences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jepa_modalities import api
from jepa_modalities.adapters.base import build_encoder, build_jepa, build_masker
from jepa_modalities.adapters.ecg.config import ECGConfig, ECGData, ECGEncoder, ECGMask
from jepa_modalities.adapters.ecg.embedding import ConvStem, LeadPosition
from jepa_modalities.adapters.ecg.encoder import MultiScaleConv, StateSpace
from jepa_modalities.adapters.ecg.model import ECGModality, in_samples, steps
from jepa_modalities.adapters.ecg.preprocess import ECGPreprocess, PreprocessConfig
from jepa_modalities.adapters.ecg.tokenizer import ECGTokenizer, cut
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import grid_positions, sincos
from jepa_modalities.settings import changed

BASE = ECGConfig(
    data=ECGData(crop=2.0, patch=0.1),
    preprocess=PreprocessConfig(leads=("I", "II", "V1"), fs=50.0),
    encoder=ECGEncoder(dim=16, depth=2, heads=2),
)
LEAD = changed(BASE, {"data.tokens": "lead", "encoder.cross_pattern": True})


def built(config: ECGConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build_encoder(config, ECGModality.geometry(config), ECGModality.embedding(config)).eval()


def drawn(config: ECGConfig, time: int = 20, records: int = 3) -> Tokens:
    shape = ECGModality.geometry(config)
    sizes = (*shape.grid[:-1], time)
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(records, math.prod(sizes), shape.features, generator=generator)
    return Tokens(values, grid_positions(*sizes))


class Blank:
    """As much of an adapter as `build_jepa` asks for."""

    def __init__(self, config: ECGConfig) -> None:
        self.config, self.geometry = config, ECGModality.geometry(config)
        self.tokenizer = nn.Identity()

    def embedding(self) -> nn.Module:
        return ECGModality.embedding(self.config)

    def target(self) -> None:
        return None


@pytest.mark.parametrize(
    ("size", "published"), [("xs", 3_600_000), ("s", 14_277_888), ("b", 85_185_024)]
)
def test_published_parameter_counts(size: str, published: int) -> None:
    """300 D + D + depth (12 D^2 + 2 D) + D without any bias (ECG spec, section 1.2)."""
    config = api.recipe(f"ecg_ptbxl_{size}")
    geometry = ECGModality.geometry(config)
    assert geometry.grid == (200,) and geometry.features == 300
    with torch.device("meta"):
        encoder = build_encoder(config, geometry, ECGModality.embedding(config))
    dim, depth = config.encoder.dim, config.encoder.depth
    expected = 300 * dim + dim + depth * (12 * dim**2 + 2 * dim) + dim
    count = sum(p.numel() for p in encoder.parameters())
    assert count == expected == published


def test_published_predictor() -> None:
    config = replace(api.recipe("ecg_ptbxl_xs"), mask=ECGMask(kind="interval"))
    jepa = build_jepa(config, Blank(config))  # type: ignore[arg-type]
    assert jepa.predictor is not None
    assert sum(p.numel() for p in jepa.predictor.parameters()) == 923_328
    # Residual branches start at 0.02 / sqrt(2 depth), the others at 0.02.
    block = jepa.encoder.blocks[5]  # type: ignore[index]
    assert float(block.attn.proj.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)
    assert float(block.attn.qkv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_seconds_become_samples() -> None:
    assert steps(BASE, 2.0) == 20 and in_samples(BASE, "x", 0.1) == 5
    with pytest.raises(ValueError, match=r"data\.patch = 0\.03 s is 1\.5 samples"):
        in_samples(BASE, "data.patch", 0.03)
    with pytest.raises(ValueError, match=r"data\.crop = 2\.02 s cannot be cut"):
        steps(BASE, 2.02)


def test_joint_tokens_equal_a_convolution() -> None:
    """The linear layer on a token is Conv1d(leads -> dim, kernel = stride = patch)."""
    signal = torch.randn(2, 3, 30)
    conv = nn.Conv1d(3, 8, 5, stride=5)
    linear = nn.Linear(15, 8)
    linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
    torch.testing.assert_close(linear(cut(signal, 5, False)), conv(signal).transpose(1, 2))


def test_lead_tokens_hold_one_lead() -> None:
    signal = torch.arange(2 * 3 * 20.0).view(2, 3, 20)
    tokens = cut(signal, 5, True)
    for lead in range(3):
        for time in range(4):
            expected = signal[1, lead, 5 * time : 5 * time + 5]
            assert torch.equal(tokens[1, lead * 4 + time], expected)


def test_tokenizer_marks_what_is_missing() -> None:
    raw = torch.randn(2, 3, 23)
    raw[0, 1] = torch.nan
    raw[1, :, 12:] = torch.nan
    joint = ECGTokenizer(ECGPreprocess(BASE.preprocess), 5)(raw)
    assert joint.values.shape == (2, 4, 15) and joint.values.isfinite().all()
    assert joint.valid is not None
    assert joint.valid.tolist() == [[True] * 4, [True, True, True, False]]
    assert (joint.values[0, :, 5:10] == 0).all() and (joint.values[0, :, :5] != 0).all()
    lead = ECGTokenizer(ECGPreprocess(BASE.preprocess), 5, True)(raw)
    assert lead.valid is not None
    row = lead.valid.view(2, 3, 4)
    assert row[0].tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert row[1].tolist() == [[True, True, True, False]] * 3
    whole = ECGTokenizer(ECGPreprocess(BASE.preprocess), 5)(raw.nan_to_num())
    assert whole.valid is None
    with pytest.raises(ValueError, match="shorter than one token of 5"):
        ECGTokenizer(ECGPreprocess(BASE.preprocess), 5)(raw[..., :4])


def test_lead_position() -> None:
    position = LeadPosition(3, 16, 0.5)
    place = grid_positions(3, 4)
    code = position(place)
    for token, (lead, time) in enumerate(place.tolist()):
        expected = 0.5 * sincos(torch.tensor([[time]]), 16)[0] + position.lead[int(lead)]
        torch.testing.assert_close(code[token], expected)


def test_cross_pattern_by_a_loop() -> None:
    """One block of depth: attention only within a lead or a time, positions in front of it."""
    config = changed(LEAD, {"encoder.depth": 1})
    encoder, tokens = built(config), drawn(LEAD)
    out = encoder(tokens).tokens
    place = tokens.positions
    block = encoder.blocks[0]
    x = encoder.embed(tokens.values) + encoder.position(place)
    y = block.norm1(x)
    q, k, v = block.attn._split(y)
    mixed = torch.zeros_like(q)
    for one in range(60):
        allowed = [
            other
            for other in range(60)
            if place[one, 0] == place[other, 0] or place[one, 1] == place[other, 1]
        ]
        assert len(allowed) == 20 + 3 - 1
        logits = (q[:, :, one : one + 1] @ k[:, :, allowed].mT) / math.sqrt(8)
        mixed[:, :, one] = (logits.softmax(-1) @ v[:, :, allowed])[:, :, 0]
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(out, encoder.norm(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [BASE, LEAD, changed(LEAD, {"encoder.num_prefix": 1})])
def test_long_recordings_go_window_by_window(config: ECGConfig) -> None:
    """50 tokens in windows of 20: 0-19, 20-39, and of 30-49 only the new ones."""
    encoder, tokens = built(config), drawn(config, time=50)
    channels = 3 if config.data.tokens == "lead" else 1
    whole = encoder(tokens, blocks=True, hidden=True)
    values = tokens.values.unflatten(1, (channels, 50))
    for start, fresh in ((0, range(20)), (20, range(20, 40)), (30, range(40, 50))):
        part = values[:, :, start : start + 20].flatten(1, 2)
        place = grid_positions(channels, 20) if channels > 1 else grid_positions(20)
        # Positions begin anew for the first window only when they are those of training.
        alone = encoder(Tokens(part, place), blocks=True, hidden=True)
        for mine, other in [
            (whole.tokens, alone.tokens),
            *zip(whole.blocks, alone.blocks, strict=True),
            *zip(whole.hidden, alone.hidden, strict=True),
        ]:
            mine, other = mine.unflatten(1, (channels, 50)), other.unflatten(1, (channels, 20))
            for time in fresh:
                torch.testing.assert_close(
                    mine[:, :, time], other[:, :, time - start], atol=1e-5, rtol=1e-4
                )


@pytest.mark.parametrize("settings", [{}, {"encoder.mixer": "dilated"}, {"encoder.mixer": "s4"}])
def test_hidden_activations_rebuild_the_last_block(settings: dict[str, Any]) -> None:
    """x + fc2(hidden) is the block's output, where x is what the block's MLP was added to."""
    encoder, tokens = built(changed(BASE, settings)), drawn(BASE)
    last, seen = encoder.blocks[-1], []
    last.norm2.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    latents = encoder(tokens, blocks=True, hidden=True)
    assert len(latents.hidden) == len(latents.blocks) == 2
    torch.testing.assert_close(seen[0] + last.mlp.fc2(latents.hidden[-1]), latents.blocks[-1])


def test_padding_changes_nothing() -> None:
    encoder = built(BASE)
    tokens = drawn(BASE, time=50)
    valid = torch.ones(3, 50, dtype=torch.bool)
    valid[0, 17:] = False
    other = tokens.values.clone()
    other[0, 17:] = 100.0
    one = encoder(Tokens(tokens.values, tokens.positions, valid)).tokens
    two = encoder(Tokens(other, tokens.positions, valid)).tokens
    assert one.isfinite().all() and two.isfinite().all()
    torch.testing.assert_close(one[0, :17], two[0, :17], atol=1e-5, rtol=1e-4)


def test_state_space_is_its_recurrence() -> None:
    """x' = A x + B u, zero-order hold, forwards and backwards (S4D, equations 2 and 3)."""
    torch.manual_seed(0)
    layer = StateSpace(4, states=3)
    layer.proj = nn.Identity()  # type: ignore[assignment]
    u = torch.randn(2, 11, 4)
    with torch.no_grad():
        found = layer(u)
        rate = torch.complex(-layer.log_decay.exp(), layer.frequency)
        step = layer.log_step.exp()[..., None] * rate
        decay, gain = step.exp(), (step.exp() - 1) / rate
        weight = torch.view_as_complex(layer.output.contiguous())
        out = u * layer.skip
        for direction in range(2):
            series = u if direction == 0 else u.flip(1)
            state = torch.zeros(2, 4, 3, dtype=torch.complex64)
            made = torch.zeros(2, 11, 4)
            for time in range(11):
                if direction == 0:
                    state = decay[0] * state + gain[0] * series[:, time, :, None]
                    made[:, time] = 2 * (weight[0] * state).sum(-1).real
                else:  # what lies behind: the sample itself belongs to the forward direction
                    made[:, time] = 2 * (weight[1] * state).sum(-1).real
                    state = decay[1] * state + gain[1] * series[:, time, :, None]
            out = out + (made if direction == 0 else made.flip(1))
    torch.testing.assert_close(found, nn.functional.gelu(out), atol=1e-4, rtol=1e-3)


def test_dilated_convolution_by_loops() -> None:
    torch.manual_seed(0)
    layer = MultiScaleConv(4, 3, (1, 3))
    layer.proj = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 9, 4)
    found = layer(x).detach()
    for channel, (number, inside) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        conv, dilation = layer.scales[number], (1, 3)[number]
        for time in range(9):
            total = conv.bias[inside]  # type: ignore[index]
            for tap in range(3):
                place = time + (tap - 1) * dilation
                if 0 <= place < 9:
                    total = total + conv.weight[inside, 0, tap] * x[0, place, channel]  # type: ignore[index]
            expected = nn.functional.gelu(total).detach()
            assert float(found[0, time, channel]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("mixer", ["dilated", "s4"])
def test_sequence_encoders_never_see_what_is_hidden(mixer: str) -> None:
    config = changed(BASE, {"encoder.mixer": mixer})
    encoder, tokens = built(config), drawn(config)
    masker = build_masker(config, ECGModality.geometry(config))
    assert masker is not None
    masks = masker(3, torch.Generator().manual_seed(0))
    other = tokens.values + 1.0
    for row in range(3):
        seen = masks.context[row, 0]
        other[row, seen] = tokens.values[row, seen]
    one = encoder(tokens, masks, blocks=True)
    two = encoder(Tokens(other, tokens.positions), masks, blocks=True)
    assert torch.equal(one.tokens, two.tokens)
    assert one.tokens.shape == (3, 1, masks.context.shape[2], 16)
    assert all(block.shape == one.tokens.shape for block in one.blocks)
    keep = masks.context[:, 0]
    few = encoder(tokens, keep=keep, hidden=True)
    assert few.tokens.shape == (3, keep.shape[1], 16) and few.blocks is None
    assert [part.shape for part in few.hidden] == [(3, keep.shape[1], 64)] * 2
    everything = Masks(torch.arange(20).expand(3, 1, -1), masks.targets)
    torch.testing.assert_close(encoder(tokens, everything).tokens[:, 0], encoder(tokens).tokens)


def test_relative_positions_do_not_depend_on_where_a_piece_lies() -> None:
    """With relative positions a piece of a recording has the same latents wherever it is cut."""
    encoder, tokens = built(changed(BASE, {"encoder.position": "relative"})), drawn(BASE)
    for name, weight in encoder.named_parameters():
        if name.endswith("attn.relative"):
            nn.init.normal_(weight)
    early, late = (torch.arange(start, start + 6).expand(3, -1) for start in (0, 11))
    moved = tokens.values.clone()
    moved[:, 11:17] = tokens.values[:, :6]
    one = encoder(tokens, keep=early).tokens
    two = encoder(Tokens(moved, tokens.positions), keep=late).tokens
    torch.testing.assert_close(one, two)
    gap = torch.tensor([0, 1, 2, 3, 4, 6]).expand(3, -1)
    moved[:, 6] = tokens.values[:, 5]
    assert not torch.allclose(one, encoder(Tokens(moved, tokens.positions), keep=gap).tokens)


def test_conv_stem_is_refused_under_masks() -> None:
    stem = ConvStem(3, 5, 16)
    assert stem(torch.randn(2, 20, 15)).shape == (2, 20, 16)
    config = changed(BASE, {"encoder.mixer": "dilated", "encoder.stem": "conv"})
    masks = Masks(torch.zeros(3, 1, 4, dtype=torch.long), torch.ones(3, 1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"encoder\.stem = 'linear'"):
        built(config)(drawn(BASE), masks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder.cross_pattern": True}, r"encoder\.cross_pattern needs data\.tokens = 'lead'"),
        (
            {"data.tokens": "lead", "encoder.cross_pattern": True, "encoder.position": "relative"},
            r"encoder\.position = 'sincos'",
        ),
        ({"encoder.mixer": "s4", "data.tokens": "lead"}, r"needs data\.tokens = 'joint'"),
        ({"encoder.mixer": "s4", "encoder.num_prefix": 1}, r"encoder\.num_prefix = 0"),
        ({"encoder.mixer": "dilated", "encoder.kernel": 8}, r"encoder\.kernel = 8 be odd"),
        ({"encoder.stem": "conv", "data.tokens": "lead"}, r"encoder\.stem = 'conv' needs"),
    ],
)
def test_complaints(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(changed(BASE, settings))


def test_read_takes_any_rate_and_leads() -> None:
    signal = np.random.default_rng(0).normal(size=(2, 2, 1000)).astype(np.float32)
    raw = ECGModality.read(BASE, (signal, 250.0, ("v1", "Lead I")))
    assert raw.shape == (2, 3, 200)
    assert raw[:, 1].isnan().all() and not raw[:, [0, 2]].isnan().any()
    longer = [signal[0], signal[1, :, :500]]
    raw = ECGModality.read(BASE, (longer, 250.0, ("V1", "I")))
    assert raw.shape == (2, 3, 200) and raw[1, 0, 100:].isnan().all()
    assert not raw[1, 0, :100].isnan().any()
    with pytest.raises(ValueError, match="none of the leads"):
        ECGModality.read(BASE, (signal, 250.0, ("V5", "V6")))
    with pytest.raises(ValueError, match=r"expected a path or \(signals, fs, lead names\)"):
        ECGModality.read(BASE, 3)
