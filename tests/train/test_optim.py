"""Four parameter groups, rates known before the step, and steps that change nothing."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.config import TrainConfig
from jepa_modalities.train.optim import apply_rates, gradient_norm, guarded_step, optimiser, rates


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(3, 4), "predictor": nn.Linear(4, 2)})


def backward(model: nn.Module, scale: float = 1.0) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    (model["predictor"](model["encoder"](x)).square().mean() * scale).backward()  # type: ignore[index]


def memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters, moments and step counters."""
    state = [optimizer.state[p] for p in model.parameters()]
    moments = [s[name] for s in state for name in ("exp_avg", "exp_avg_sq", "step")]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *moments]]


def test_groups_and_what_is_decayed(runs: ModuleType) -> None:
    config = runs.RUNS["joint"]
    jepa = build_jepa(config, ImageAdapter(config))
    groups = optimiser(jepa).param_groups
    assert [group["decayed"] for group in groups] == [True, False, True, False]
    names = {id(p): name for name, p in jepa.named_parameters()}
    found = [{names[id(p)] for p in group["params"]} for group in groups]
    for name, p in jepa.named_parameters():
        inside, vector = name.startswith("encoder."), p.ndim < 2
        place = (0 if inside else 2) + vector
        if p.requires_grad:
            assert name in found[place], name
        else:
            assert not any(name in group for group in found), name
    assert "encoder.blocks.0.attn.qkv.weight" in found[0]
    assert "encoder.norm.weight" in found[1] and "encoder.embed.bias" in found[1]
    assert "predictor.mask_token" in found[2] and "terms.1.projector.0.weight" in found[2]
    assert not any(name.startswith("teacher.") for group in found for name in group)


def test_rates_at_the_ends_and_between() -> None:
    config = TrainConfig(
        lr_start=1e-4, lr=1e-3, lr_end=1e-6, weight_decay=(0.04, 0.4), ema=(0.99, 1.0)
    )
    total, warmup = 101, 20
    first, last = rates(config, 1, total, warmup), rates(config, total, total, warmup)
    assert (first.lr, first.momentum) == (1e-4, 0.99)
    assert first.weight_decay == pytest.approx(0.04)
    assert last.lr == pytest.approx(1e-6) and last.weight_decay == pytest.approx(0.4)
    assert last.momentum == 1.0
    tenth = rates(config, 11, total, warmup)
    assert tenth.lr == pytest.approx(1e-4 + 9e-4 * 10 / 20)
    assert tenth.momentum == pytest.approx(0.99 + 0.01 * 10 / 100)
    assert rates(config, warmup + 1, total, warmup).lr == pytest.approx(1e-3)
    middle = rates(config, 51, total, warmup)
    assert middle.weight_decay == pytest.approx(
        0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi / 2)) / 2
    )


def test_a_step_follows_adamw_by_hand() -> None:
    """Decay on matrices only, then the first Adam step: lr against the gradient's sign."""
    model = network()
    optimizer = optimiser(model)
    now = rates(TrainConfig(lr_start=0.01, weight_decay=(0.1, 0.1)), 1, 10, 5)
    apply_rates(optimizer, now)
    backward(model)
    before = [(p.detach().clone(), p.grad) for p in model.parameters()]
    guarded_step(optimizer, gradient_norm(list(model.parameters())), None)
    for (old, grad), p in zip(before, model.parameters(), strict=True):
        assert grad is not None
        kept = old * (1 - 0.01 * 0.1) if p.ndim > 1 else old
        expected = kept - 0.01 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_broken_gradient_changes_nothing_at_all(scale: float, clip: float | None) -> None:
    model = network()
    optimizer = optimiser(model)
    apply_rates(optimizer, rates(TrainConfig(lr_start=0.01), 1, 10, 5))
    for _ in range(2):
        optimizer.zero_grad()
        backward(model)
        assert guarded_step(optimizer, gradient_norm(list(model.parameters())), clip) == 0
    before = memory(model, optimizer)
    assert [float(t) for t in before if t.ndim == 0] == [2.0] * 4
    optimizer.zero_grad()
    backward(model, scale)
    assert guarded_step(optimizer, gradient_norm(list(model.parameters())), clip) == 1
    for old, new in zip(before, memory(model, optimizer), strict=True):
        assert torch.equal(old, new)
    optimizer.zero_grad()
    backward(model)
    assert guarded_step(optimizer, gradient_norm(list(model.parameters())), clip) == 0
    after = memory(model, optimizer)
    assert [float(t) for t in after if t.ndim == 0] == [3.0] * 4
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_first_step_may_be_broken() -> None:
    model = network()
    optimizer = optimiser(model)
    apply_rates(optimizer, rates(TrainConfig(lr_start=0.01), 1, 10, 5))
    before = [p.detach().clone() for p in model.parameters()]
    backward(model, math.nan)
    guarded_step(optimizer, gradient_norm(list(model.parameters())), None)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(float(optimizer.state[p]["step"]) == 0 for p in model.parameters())


def test_clipping_limits_the_norm_of_all_gradients() -> None:
    model = network()
    optimizer = optimiser(model)
    apply_rates(optimizer, rates(TrainConfig(lr_start=0.01), 1, 10, 5))
    backward(model, 100.0)
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    assert norm > 1
    assert float(gradient_norm(list(model.parameters()))) == pytest.approx(norm, rel=1e-5)
    guarded_step(optimizer, gradient_norm(list(model.parameters())), 0.5)
    for old, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, old * 0.5 / norm, rtol=1e-4, atol=1e-7)
    optimizer.zero_grad()
    backward(model, 1e-4)  # below the limit: untouched
    small = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    guarded_step(optimizer, gradient_norm(list(model.parameters())), 0.5)
    assert all(
        torch.equal(g, p.grad)  # type: ignore[arg-type]
        for g, p in zip(small, model.parameters(), strict=True)
    )
