"""Targets: the teacher's latents, fixed functions, and the hand-over between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch, Latents, Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.core.losses import Prediction, regression
from jepa_modalities.core.masking import RandomMasker
from jepa_modalities.core.positions import SinCosPosition, grid_positions
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.core.target import EmaTarget, FixedTarget, HandOver


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch() -> Batch:
    positions = grid_positions(3, 4)
    context = Tokens(normal(2, 12, 5), positions)
    target = Tokens(normal(2, 12, 5, seed=1), positions)
    return Batch(context, target, raw=normal(2, 24, seed=2))


def teacher() -> TokenEncoder:
    torch.manual_seed(0)
    return TokenEncoder(nn.Linear(5, 8), SinCosPosition(8), 8, 3, 2, Style(init="xavier"))


def standardised(row: Tensor) -> Tensor:
    """Parameter-free layer norm of one vector, eps 1e-5."""
    centred = row - row.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


class Reshape(nn.Module):
    """A fixed function: the raw sample cut into 12 tokens, times a constant."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, raw: Tensor) -> Tensor:
        return raw.view(len(raw), 12, -1) * self.factor


@pytest.mark.parametrize("layer_norm", [True, False])
def test_ema_target_by_loops(layer_norm: bool) -> None:
    model = teacher()
    with torch.no_grad():  # an affine last norm must not survive the parameter-free one
        model.norm.weight.copy_(normal(8).abs() + 0.5)
    found = EmaTarget(8, layer_norm)(batch(), model)
    whole = model(batch().target).tokens  # the WHOLE target sample, not the context's
    assert found.shape == whole.shape
    for row in range(2):
        for token in range(whole.shape[1]):
            expected = whole[row, token]
            expected = standardised(expected) if layer_norm else expected
            torch.testing.assert_close(found[row, token], expected)


def test_mean_of_the_last_layers_by_loops() -> None:
    model = teacher()
    found = EmaTarget(8, layers=2)(batch(), model)
    blocks = model(batch().target, blocks=True).blocks
    assert blocks is not None
    for row in range(2):
        for token in range(found.shape[1]):
            parts = [standardised(block[row, token]) for block in blocks[-2:]]
            expected = standardised((parts[0] + parts[1]) / 2)
            torch.testing.assert_close(found[row, token], expected)


def test_fixed_target_by_loops_and_without_gradient() -> None:
    function = Reshape()
    target = FixedTarget(function, 2)
    found = target(batch(), None)  # type: ignore[arg-type]
    raw = batch().raw
    assert raw is not None
    for row in range(2):
        for token in range(found.shape[1]):
            expected = 2.0 * raw[row, 2 * token : 2 * token + 2]
            torch.testing.assert_close(found[row, token], expected)
    assert not function.factor.requires_grad
    assert not found.requires_grad
    assert target.dim == 2


class Refuses(nn.Module):
    """A teacher that must not be run."""

    def forward(self, tokens: Tokens, blocks: bool = False) -> Latents:
        raise AssertionError("the teacher was run")


def test_hand_over_weights() -> None:
    target = HandOver(FixedTarget(Reshape(), 2), EmaTarget(8), start=0.2, end=0.6, rest=0.3)
    assert target.dim == 10
    predicted = normal(2, 12, 10, seed=5)
    shares = {0.0: 0.0, 0.2: 0.0, 0.3: 0.25, 0.5: 0.75, 0.6: 1.0, 1.0: 1.0}
    for progress, share in shares.items():
        target.schedule(progress)
        latent, fixed = share, 1 - share * (1 - 0.3)
        found = target(batch(), teacher())
        error = (predicted - found).square()
        expected = fixed * error[..., :2].mean((1, 2)) + latent * error[..., 2:].mean((1, 2))
        loss = regression(predicted, found, "mse", target.channel_weight)
        torch.testing.assert_close(loss, expected)
    assert torch.equal(found[..., :2], target.fixed(batch(), teacher()))
    assert torch.equal(found[..., 2:], target.latent(batch(), teacher()))
    target.schedule(0.1)  # a restarted run may go back
    assert float(target.channel_weight[2:].abs().max()) == 0.0


def test_the_teacher_is_not_run_before_the_start() -> None:
    target = HandOver(FixedTarget(Reshape(), 2), EmaTarget(8), start=0.5, end=1.0)
    target.schedule(0.5)
    found = target(batch(), Refuses())  # type: ignore[arg-type]
    assert found.shape == (2, 12, 10)
    assert float(found[..., 2:].abs().max()) == 0.0
    target.schedule(0.51)
    with pytest.raises(AssertionError, match="the teacher was run"):
        target(batch(), Refuses())  # type: ignore[arg-type]


def test_hand_over_at_once() -> None:
    target = HandOver(FixedTarget(Reshape(), 2), EmaTarget(8), start=0.5, end=0.5, rest=0.0)
    target.schedule(0.49)
    assert target.share == 0.0
    target.schedule(0.51)
    assert target.share == 1.0
    assert target.channel_weight.tolist() == pytest.approx([0.0] * 2 + [10 / 8] * 8)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.4), (-0.1, 0.5), (0.5, 1.1)])
def test_hand_over_needs_ascending_shares(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"target\.handover"):
        HandOver(FixedTarget(Reshape(), 2), EmaTarget(8), start, end)


@pytest.mark.parametrize("kind", ["ema", "fixed", "handover"])
def test_no_gradient_comes_through_a_target(kind: str) -> None:
    torch.manual_seed(0)
    fixed, latent = FixedTarget(Reshape(), 2), EmaTarget(8)
    target = {"ema": latent, "fixed": fixed, "handover": HandOver(fixed, latent, 0.0, 0.5)}[kind]
    target.schedule(0.4)
    jepa = JEPA(teacher(), Predictor(8, 8, 1, 2, target.dim), target, [Prediction()])
    out = jepa(batch(), RandomMasker(12)(2, torch.Generator().manual_seed(0)))
    assert out.target is not None and not out.target.requires_grad
    assert out.loss is not None
    out.loss.backward()
    assert all(p.grad is None for p in jepa.teacher.parameters())
    assert out.predicted is not None and out.predicted.shape == out.target.shape


def test_both_targets_from_the_first_step() -> None:
    """Start and end at 0: the mean of both errors, each with weight 1, at every step."""
    target = HandOver(FixedTarget(Reshape(), 2), EmaTarget(8), 0.0, 0.0, rest=1.0)
    for progress in (0.0, 0.3, 1.0):
        target.schedule(progress)
        assert target.channel_weight.tolist() == pytest.approx([10 / 2] * 2 + [10 / 8] * 8)
