"""Loss terms: latent regression, VICReg and SIGReg over blocks of one sample or over views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.draw import seeded
from jepa_modalities.core.masking import gather as pick
from jepa_modalities.core.precision import full_precision

if TYPE_CHECKING:
    from jepa_modalities.core.batch import Batch
    from jepa_modalities.core.jepa import JEPAOutput

# Concatenates a tensor over all processes along the batch, with gradient.
Gather = Callable[[Tensor], Tensor]

REGRESSIONS: dict[str, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
}


def regression(
    predicted: Tensor, target: Tensor, kind: str = "smooth_l1", weight: Tensor | None = None
) -> Tensor:
    """Mean regression error of each sample, in fp32.

    Args:
        predicted: (batch, blocks, targets, dim).
        target: the same shape.
        kind: "smooth_l1" (beta 1, the published I-JEPA code), "l1", "mse" or "cosine" (1 - cosine).
        weight: of each channel, (dim,), or None.

    Returns:
        (batch,).

    Raises:
        ValueError: unknown `kind`, or channel weights with "cosine".
    """
    predicted, target = predicted.float(), target.float()
    if kind == "cosine":
        if weight is not None:
            raise ValueError("loss.prediction = 'cosine' has no channels to weigh; use 'smooth_l1'")
        error = 1 - F.cosine_similarity(predicted, target, dim=-1)
    elif kind in REGRESSIONS:
        error = REGRESSIONS[kind](predicted, target, reduction="none")
        error = error if weight is None else error * weight
    else:
        known = ", ".join([*REGRESSIONS, "cosine"])
        raise ValueError(f"loss.prediction = {kind!r} is not known; choose one of {known}")
    return error.flatten(1).mean(1)


def invariance(z: Tensor) -> Tensor:
    """Mean over all pairs of views of their mean squared distance (VICReg, equation 5).

    Closed form: sum_{i<j} |z_i - z_j|^2 = M sum_i |z_i - mean|^2.

    Args:
        z: (batch, views, dim).
    """
    views = z.shape[1]
    if views < 2:
        return z.new_zeros(())
    spread = (z - z.mean(1, keepdim=True)).square().mean((0, 2)).sum()
    return 2 / (views - 1) * spread


def variance(z: Tensor, gamma: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Hinge on each dimension's standard deviation over the batch (VICReg, equation 1).

    Args:
        z: (batch, views, dim); the statistic is taken per view and averaged.
        gamma: wanted standard deviation.
        eps: inside the root.
    """
    return F.relu(gamma - (z.var(0) + eps).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over the width (VICReg, equations 3 and 4).

    Args:
        z: (batch, views, dim); per view, averaged.
    """
    batch, _, dim = z.shape
    centred = (z - z.mean(0)).transpose(0, 1)  # (views, batch, dim)
    matrix = centred.transpose(1, 2) @ centred / (batch - 1)
    squares = matrix.square().sum((1, 2)) - matrix.diagonal(dim1=1, dim2=2).square().sum(1)
    return squares.mean() / dim


def vicreg(z: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """VICReg averaged over all ordered pairs of views, in closed form (C-JEPA, algorithm 1).

    The original convention per pair: a MSE + b (v_i + v_j) / 2 + c (c_i + c_j).

    Args:
        z: (batch, views, dim), float32.
        coefficients: a (invariance), b (variance), c (covariance); 25, 25, 1 in both papers.
    """
    a, b, c = coefficients
    return a * invariance(z) + b * variance(z) + 2 * c * covariance(z)


def sigreg(z: Tensor, directions: Tensor, knots: int = 17, limit: float = 5.0) -> Tensor:
    """Epps-Pulley distance of random 1-D projections from a standard normal (LeJEPA, section 4).

    The integral over t of |empirical - normal characteristic function|^2 under a normal window, by
    the trapezoid rule, times the batch size; averaged over views and directions.

    Args:
        z: (batch, views, dim), float32.
        directions: unit columns, (dim, slices).
        knots: points of the rule on [-limit, limit].
        limit: end of the integral.
    """
    t = torch.linspace(-limit, limit, knots, device=z.device)
    normal = torch.exp(-t.square() / 2)
    angle = (z @ directions)[..., None] * t  # (batch, views, slices, knots)
    real, imaginary = angle.cos().mean(0), angle.sin().mean(0)
    distance = ((real - normal).square() + imaginary.square()) * normal
    return torch.trapezoid(distance, t, dim=-1).mean() * len(z)


def projector(dim: int, widths: Sequence[int]) -> nn.Module:
    """Linear-BatchNorm-ReLU for every width but the last, which is Linear only; identity if empty.

    The batch norm sees the batch of all processes because terms gather before they project; it
    keeps no running statistics, so a void step leaves no trace.
    """
    layers: list[nn.Module] = []
    for number, width in enumerate(widths, start=1):
        layers.append(nn.Linear(dim, width))
        if number < len(widths):
            layers += [nn.BatchNorm1d(width, track_running_stats=False), nn.ReLU()]
        dim = width
    return nn.Sequential(*layers)


def pooled(output: JEPAOutput, source: str) -> Tensor:
    """The vectors that a regulariser compares, one per block or view (C-JEPA has two readings).

    Args:
        output: of the forward pass so far.
        source: "predicted" (mean over each predicted block), "context" (mean over each context
            group), "predicted_target" (mean prediction and mean target of each sample) or "views"
            (mean over each view's tokens).

    Returns:
        (batch, views, dim).

    Raises:
        ValueError: the method does not make this source.
    """
    if source == "views" and output.views is not None:
        return output.views.mean(2).transpose(0, 1)
    if source == "predicted" and output.predicted is not None:
        return output.predicted.mean(2)
    if source == "context" and output.latents is not None:
        if output.context_valid is None:
            return output.latents.tokens.mean(2)
        real = output.context_valid[..., None]
        return (output.latents.tokens * real).sum(2) / real.sum(2)
    if source == "predicted_target" and output.predicted is not None and output.target is not None:
        return torch.stack([output.predicted.mean((1, 2)), output.target.mean((1, 2))], dim=1)
    raise ValueError(
        f"regulariser.source = {source!r} is not made by this method; 'views' needs two-view "
        f"training, 'predicted', 'context' and 'predicted_target' need masked prediction"
    )


class Prediction(nn.Module):
    """The JEPA loss: regression of the predicted on the target features.

    Args:
        kind: see `regression`.
        weight: of this term in the sum.
    """

    name = "prediction"

    def __init__(self, kind: str = "smooth_l1", weight: float = 1.0) -> None:
        super().__init__()
        self.kind, self.weight = kind, weight

    def forward(self, output: JEPAOutput, batch: Batch, gather: Gather) -> Tensor:
        return output.sample_loss(self.kind).mean()


class Visible(nn.Module):
    """Regression of the target at the visible tokens, each from its own latent by a linear layer.

    A denoising loss: the target knows what leads or noise hide inside every token. Hidden tokens
    are `Prediction`'s.

    Args:
        dim: width of the encoder.
        target_dim: width of the target's features.
        kind: see `regression`.
        weight: of this term in the sum.
    """

    name = "visible"

    def __init__(self, dim: int, target_dim: int, kind: str, weight: float = 1.0) -> None:
        super().__init__()
        self.kind, self.weight = kind, weight
        self.head = nn.Linear(dim, target_dim)

    def forward(self, output: JEPAOutput, batch: Batch, gather: Gather) -> Tensor:
        if output.latents is None or output.masks is None or output.features is None:
            raise ValueError("loss.visible needs masked prediction: set mask.kind and loss.weight")
        target = pick(output.features, output.masks.context).float()
        told = self.head(output.latents.tokens).float()
        if output.context_valid is not None:  # padding is told without error
            told = torch.where(output.context_valid[..., None], told, target)
        return regression(told, target, self.kind, output.channel_weight).mean()


class Regulariser(nn.Module):
    """VICReg or SIGReg on blocks of one sample or on two views, behind one interface.

    Statistics are taken in fp32 on the batch of all processes. SIGReg's directions are a function
    of `seed` and `step`, the optimiser step that `JEPA.schedule` sets: the same in every process,
    and a resumed run needs no state.

    Args:
        source: see `pooled`.
        dim: width of the source.
        widths: of the projector's layers; empty for none.
        kind: "vicreg" or "sigreg".
        coefficients: invariance, variance, covariance for VICReg; invariance, SIGReg for SIGReg.
        weight: of this term in the sum (C-JEPA: 0.001).
        slices: random directions of SIGReg, new at every step.
        seed: of the run, for SIGReg's directions.

    Raises:
        ValueError: unknown `kind`, or a wrong number of coefficients.
    """

    def __init__(
        self,
        source: str,
        dim: int,
        widths: Sequence[int] = (),
        kind: str = "vicreg",
        coefficients: Sequence[float] = (25.0, 25.0, 1.0),
        weight: float = 1.0,
        slices: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expected = {"vicreg": 3, "sigreg": 2}
        if kind not in expected:
            raise ValueError(f"regulariser.kind = {kind!r} is not known; 'vicreg' or 'sigreg'")
        if len(coefficients) != expected[kind]:
            raise ValueError(
                f"regulariser.coefficients = {tuple(coefficients)}: {kind} needs {expected[kind]}"
            )
        self.name, self.source, self.kind, self.weight = kind, source, kind, weight
        self.coefficients, self.slices, self.seed = tuple(coefficients), slices, seed
        self.projector = projector(dim, widths)
        self.step = 0

    def forward(self, output: JEPAOutput, batch: Batch, gather: Gather) -> Tensor:
        with full_precision(batch.context.values.device.type):
            vectors = gather(pooled(output, self.source).float())
            if len(vectors) < 2:
                raise ValueError(f"{self.kind} needs at least 2 samples in a batch, found 1")
            z = self.projector(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
            if self.kind == "vicreg":
                a, b, c = self.coefficients
                return vicreg(z, (a, b, c))
            return self.coefficients[0] * invariance(z) + self.coefficients[1] * sigreg(
                z, self._directions(z.shape[-1]).to(z.device, non_blocking=True)
            )

    def _directions(self, dim: int) -> Tensor:
        """Unit directions of this step, (dim, slices), on the CPU."""
        generator = seeded(self.seed, 10, self.step)
        return F.normalize(torch.randn(dim, self.slices, generator=generator), dim=0)
