"""AdamW with the paper's four parameter groups, and a step that a broken gradient makes void."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_modalities.config import TrainConfig
from jepa_modalities.core.schedules import cosine, linear, warmup_cosine


@dataclass(frozen=True)
class Rates:
    """Settings of one step.

    Attributes:
        lr: learning rate.
        weight_decay: of matrices.
        momentum: of the teacher.
    """

    lr: float
    weight_decay: float
    momentum: float


def rates(config: TrainConfig, step: int, total: int, warmup: int) -> Rates:
    """Settings of step 1..total (I-JEPA, appendix A.1): known BEFORE the step."""
    return Rates(
        warmup_cosine(step, total, warmup, config.lr_start, config.lr, config.lr_end),
        cosine(step, total, *config.weight_decay),
        linear(step, total, *config.ema),
    )


def optimiser(
    jepa: nn.Module, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """Fused AdamW over {encoder, the rest} x {matrices; biases, norms and other vectors}.

    Vectors (one axis) get no weight decay; mask and register tokens have three axes and do, as in
    the published code.
    """
    groups: list[dict[str, object]] = []
    for inside in (True, False):
        named = [
            (name, p)
            for name, p in jepa.named_parameters()
            if p.requires_grad and name.removeprefix("module.").startswith("encoder.") == inside
        ]
        for decayed in (True, False):
            chosen = [p for name, p in named if (p.ndim > 1) == decayed]
            if chosen:
                groups.append({"params": chosen, "decayed": decayed})
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


def apply_rates(optimizer: torch.optim.Optimizer, now: Rates) -> None:
    """Write a step's settings into the groups."""
    for group in optimizer.param_groups:
        group["lr"] = now.lr
        group["weight_decay"] = now.weight_decay if group["decayed"] else 0.0


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Norm of all gradients, on the device; the same on every process once gradients agree."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()


def guarded_step(optimizer: torch.optim.Optimizer, norm: Tensor, clip: float | None) -> Tensor:
    """Clip and step, or change nothing when the norm is not finite; never waits for the device.

    Args:
        optimizer: fused, so that it honours `found_inf` on the device.
        norm: of all gradients.
        clip: largest norm, or None.

    Returns:
        1.0 where the step was void, else 0.0; a scalar on the device.
    """
    void = (~torch.isfinite(norm)).float()
    if clip is not None:
        grads = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        torch._foreach_mul_(grads, (clip / (norm + 1e-6)).clamp(max=1.0))
    optimizer.found_inf = void  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()
    return void
