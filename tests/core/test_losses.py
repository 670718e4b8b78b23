"""Loss terms against plain loops, in the original VICReg convention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch, Latents, Tokens
from jepa_modalities.core.jepa import JEPAOutput
from jepa_modalities.core.losses import (
    Prediction,
    Regulariser,
    Visible,
    covariance,
    invariance,
    pooled,
    projector,
    regression,
    sigreg,
    variance,
    vicreg,
)
from jepa_modalities.core.masking import Masks


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loop_variance(z: Tensor) -> float:
    """v(z) of one view, (batch, dim), by loops."""
    batch, dim = z.shape
    total = 0.0
    for j in range(dim):
        column = z[:, j].tolist()
        mean = sum(column) / batch
        spread = sum((value - mean) ** 2 for value in column) / (batch - 1)
        total += max(0.0, 1.0 - math.sqrt(spread + 1e-4))
    return total / dim


def loop_covariance(z: Tensor) -> float:
    """c(z) of one view, (batch, dim), by loops."""
    batch, dim = z.shape
    mean = [sum(z[:, j].tolist()) / batch for j in range(dim)]
    total = 0.0
    for i, j in itertools.permutations(range(dim), 2):
        c = sum(float((z[b, i] - mean[i]) * (z[b, j] - mean[j])) for b in range(batch))
        total += (c / (batch - 1)) ** 2
    return total / dim


def loop_mse(x: Tensor, y: Tensor) -> float:
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) / x.numel()


@pytest.mark.parametrize("views", [2, 4])
def test_vicreg_equals_the_double_loop(views: int) -> None:
    z = 0.7 * normal(6, views, 5)
    total = 0.0
    for i, j in itertools.permutations(range(views), 2):
        total += 25 * loop_mse(z[:, i], z[:, j])
        total += 25 * (loop_variance(z[:, i]) + loop_variance(z[:, j])) / 2
        total += 1 * (loop_covariance(z[:, i]) + loop_covariance(z[:, j]))
    expected = total / (views * (views - 1))
    assert float(vicreg(z, (25.0, 25.0, 1.0))) == pytest.approx(expected, rel=1e-5)


def test_each_vicreg_term_by_loops() -> None:
    z = normal(7, 3, 4) * torch.tensor([0.2, 0.9, 1.5, 0.5])
    views = [z[:, i] for i in range(3)]
    pairs = list(itertools.combinations(views, 2))
    assert float(invariance(z)) == pytest.approx(sum(loop_mse(a, b) for a, b in pairs) / 3)
    assert float(variance(z)) == pytest.approx(sum(map(loop_variance, views)) / 3, rel=1e-5)
    assert float(covariance(z)) == pytest.approx(sum(map(loop_covariance, views)) / 3, rel=1e-5)


def test_coefficients_belong_to_their_terms() -> None:
    z = normal(5, 2, 3)
    assert float(vicreg(z, (1.0, 0.0, 0.0))) == pytest.approx(float(invariance(z)))
    assert float(vicreg(z, (0.0, 1.0, 0.0))) == pytest.approx(float(variance(z)))
    assert float(vicreg(z, (0.0, 0.0, 1.0))) == pytest.approx(2 * float(covariance(z)))


def test_terms_at_their_corners() -> None:
    z = normal(5, 1, 3)
    assert float(invariance(z)) == 0.0  # one view has no pair
    same = z.expand(-1, 4, -1)
    assert float(invariance(same)) == pytest.approx(0.0, abs=1e-12)
    assert float(variance(torch.zeros(5, 2, 3))) == pytest.approx(1 - 0.01)  # sqrt(eps) = 0.01
    assert float(variance(z / z.std(0) * 1.5)) == 0.0
    assert float(covariance(z[..., :1])) == 0.0


def loop_sigreg(z: Tensor, direction: list[float], knots: int, limit: float) -> float:
    """Epps-Pulley distance of one view and one direction by the trapezoid rule, plain Python."""
    projected = [sum(a * b for a, b in zip(row, direction, strict=True)) for row in z.tolist()]
    step, values = 2 * limit / (knots - 1), []
    for k in range(knots):
        t = -limit + k * step
        real = sum(math.cos(t * p) for p in projected) / len(projected)
        imaginary = sum(math.sin(t * p) for p in projected) / len(projected)
        window = math.exp(-t * t / 2)
        values.append(((real - window) ** 2 + imaginary**2) * window)
    inner = sum(values) - (values[0] + values[-1]) / 2
    return len(projected) * step * inner


def test_sigreg_by_plain_integration() -> None:
    z, directions = normal(4, 2, 3), F.normalize(normal(3, 2, seed=1), dim=0)
    expected = [
        loop_sigreg(z[:, view], directions[:, d].tolist(), 17, 5.0)
        for view in range(2)
        for d in range(2)
    ]
    found = float(sigreg(z, directions))
    assert found == pytest.approx(sum(expected) / 4, rel=1e-5)
    # 17 knots are enough: a rule 100 times finer gives the same integral.
    fine = [
        loop_sigreg(z[:, view], directions[:, d].tolist(), 1601, 8.0)
        for view in range(2)
        for d in range(2)
    ]
    assert found == pytest.approx(sum(fine) / 4, rel=1e-3)


def test_sigreg_tells_normal_from_collapsed() -> None:
    directions = F.normalize(normal(8, 16, seed=1), dim=0)
    draws = [float(sigreg(normal(200, 1, 8, seed=s), directions)) for s in range(60)]
    gaussian = sum(draws) / len(draws)
    collapsed = float(sigreg(torch.zeros(2000, 1, 8), directions))
    shrunk = float(sigreg(0.3 * normal(2000, 1, 8), directions))
    # Expected for normal data: the integral of (1 - exp(-t^2)) exp(-t^2 / 2), whatever the size.
    expected = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
    assert gaussian == pytest.approx(expected, rel=0.15)
    # A point: N times the integral of (1 - exp(-t^2 / 2))^2 exp(-t^2 / 2).
    point = math.sqrt(2 * math.pi) * (1 - 2 / math.sqrt(2) + 1 / math.sqrt(3))
    assert collapsed == pytest.approx(2000 * point, rel=1e-3)
    assert gaussian < shrunk < collapsed


def scalar_error(kind: str, a: float, b: float) -> float:
    d = abs(a - b)
    return {"l1": d, "mse": d * d, "smooth_l1": 0.5 * d * d if d < 1 else d - 0.5}[kind]


@pytest.mark.parametrize("kind", ["smooth_l1", "l1", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_regression_by_loops(kind: str, weighted: bool) -> None:
    predicted, target = normal(3, 2, 4, 5), 2 * normal(3, 2, 4, 5, seed=1)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0]) if weighted else None
    found = regression(predicted, target, kind, weight)
    assert found.shape == (3,)
    for row in range(3):
        total = 0.0
        for b, t, c in itertools.product(range(2), range(4), range(5)):
            error = scalar_error(kind, float(predicted[row, b, t, c]), float(target[row, b, t, c]))
            total += error * (1.0 if weight is None else float(weight[c]))
        assert float(found[row]) == pytest.approx(total / 40, rel=1e-5)


def test_cosine_regression_by_loops() -> None:
    predicted, target = normal(2, 2, 3, 4), normal(2, 2, 3, 4, seed=1)
    found = regression(predicted, target, "cosine")
    for row in range(2):
        total = 0.0
        for b, t in itertools.product(range(2), range(3)):
            x, y = predicted[row, b, t], target[row, b, t]
            total += 1 - float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())
        assert float(found[row]) == pytest.approx(total / 6, rel=1e-5)


def test_regression_is_fp32_and_checks_its_names() -> None:
    x = normal(2, 1, 3, 4).bfloat16()
    assert regression(x, x).dtype == torch.float32
    with pytest.raises(ValueError, match=r"loss\.prediction = 'huber'.*smooth_l1"):
        regression(x, x, "huber")
    with pytest.raises(ValueError, match=r"loss\.prediction = 'cosine'"):
        regression(x, x, "cosine", torch.ones(4))


def output() -> JEPAOutput:
    return JEPAOutput(
        latents=Latents(normal(6, 3, 5, 8), torch.zeros(9, 2)),
        predicted=normal(6, 4, 7, 8, seed=1),
        target=normal(6, 4, 7, 8, seed=2),
        views=normal(2, 6, 5, 8, seed=3),
    )


def batch(size: int = 6) -> Batch:
    tokens = Tokens(torch.zeros(size, 9, 2), torch.zeros(9, 2))
    return Batch(tokens, tokens)


def test_pooled_sources_by_loops() -> None:
    out = output()
    assert out.latents is not None and out.predicted is not None
    assert out.target is not None and out.views is not None
    for row in range(6):
        for block in range(4):
            expected = sum(out.predicted[row, block, t] for t in range(7)) / 7
            torch.testing.assert_close(pooled(out, "predicted")[row, block], expected)
        for group in range(3):
            expected = sum(out.latents.tokens[row, group, t] for t in range(5)) / 5
            torch.testing.assert_close(pooled(out, "context")[row, group], expected)
        for view in range(2):
            expected = sum(out.views[view, row, t] for t in range(5)) / 5
            torch.testing.assert_close(pooled(out, "views")[row, view], expected)
        pairs = list(itertools.product(range(4), range(7)))
        for side, values in enumerate((out.predicted, out.target)):
            expected = sum(values[row, b, t] for b, t in pairs) / 28
            torch.testing.assert_close(pooled(out, "predicted_target")[row, side], expected)


def test_padding_is_no_part_of_the_pooled_context() -> None:
    out = output()
    out.context_valid = torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    out.context_valid[..., 0] = True
    assert out.latents is not None
    found = pooled(out, "context")
    for row, group in itertools.product(range(6), range(3)):
        valid = out.context_valid[row, group]
        expected = out.latents.tokens[row, group][valid].mean(0)
        torch.testing.assert_close(found[row, group], expected)


@pytest.mark.parametrize("source", ["predicted", "context", "views", "predicted_target", "pixels"])
def test_sources_that_were_not_made_are_named(source: str) -> None:
    with pytest.raises(ValueError, match=rf"regulariser\.source = '{source}'"):
        pooled(JEPAOutput(), source)


def test_prediction_term() -> None:
    out = output()
    out.channel_weight = torch.arange(8.0)
    found = Prediction("mse", 0.5)(out, batch(), lambda x: x)
    assert out.predicted is not None and out.target is not None
    expected = ((out.predicted - out.target).square() * torch.arange(8.0)).mean()
    torch.testing.assert_close(found, expected)  # the weight is JEPA's to apply


@pytest.mark.parametrize("padded", [False, True])
def test_visible_tokens_are_told_from_their_own_latents(padded: bool) -> None:
    torch.manual_seed(0)
    out, term = output(), Visible(8, 4, "mse", 1.0)
    context = torch.randint(0, 9, (6, 3, 5), generator=torch.Generator().manual_seed(1))
    valid = torch.ones(6, 3, 5, dtype=torch.bool)
    if padded:
        valid[:, :, 3:] = False
    out.masks, out.context_valid = Masks(context, context), valid if padded else None
    out.features = features = normal(6, 9, 4, seed=4)
    assert out.latents is not None
    found = term(out, batch(), lambda x: x)
    errors = [
        (term.head(out.latents.tokens[r, g, t]) - features[r, context[r, g, t]]).square().mean()
        for r, g, t in itertools.product(range(6), range(3), range(5))
        if valid[r, g, t]
    ]
    torch.testing.assert_close(found, torch.stack(errors).sum() / 90)
    with pytest.raises(ValueError, match=r"loss\.visible needs masked prediction"):
        term(JEPAOutput(), batch(), lambda x: x)


def test_regulariser_is_vicreg_of_the_projected_gathered_batch() -> None:
    torch.manual_seed(0)
    out, term = output(), Regulariser("predicted", 8, (6, 5), coefficients=(25.0, 25.0, 1.0))
    other = normal(6, 4, 8, seed=9)  # what a second process would add
    found = term(out, batch(), lambda x: torch.cat([x, other]))
    vectors = torch.cat([pooled(out, "predicted"), other])
    first, norm, _, last = term.projector
    h = vectors.reshape(48, 8) @ first.weight.T + first.bias
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + norm.eps).sqrt()
    z = last(h.clamp_min(0)).view(12, 4, 5)
    expected = 25 * invariance(z) + 25 * variance(z) + 2 * covariance(z)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_regulariser_statistics_are_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    term, seen = Regulariser("predicted", 8, (6, 5)), []
    for layer in term.projector:
        layer.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    plain = term(output(), batch(), lambda x: x)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.functional.linear(normal(2, 3), normal(4, 3)).dtype == torch.bfloat16
        cast = term(output(), batch(), lambda x: x)
    assert set(seen) == {torch.float32}
    assert cast.dtype == torch.float32
    assert torch.equal(plain, cast)


def test_sigreg_directions_belong_to_the_seed_and_the_step() -> None:
    settings = {"kind": "sigreg", "coefficients": (0.0, 1.0), "slices": 4}
    first = Regulariser("predicted", 8, **settings)  # type: ignore[arg-type]
    torch.manual_seed(123)  # another state of the global generator, as in another process
    second = Regulariser("predicted", 8, **settings)  # type: ignore[arg-type]
    losses: list[list[float]] = []
    for term in (first, second):
        losses.append([])
        for term.step in (1, 2, 3, 3):
            losses[-1].append(float(term(output(), batch(), lambda x: x)))
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3 and losses[0][2] == losses[0][3]
    directions = first._directions(8)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(4))
    other = Regulariser("predicted", 8, **settings, seed=1)  # type: ignore[arg-type]
    drawn = []
    for term in (first, other):
        for term.step in (1, 2):
            drawn.append(tuple(term._directions(8).flatten().tolist()))
    assert len(set(drawn)) == 4


def test_regulariser_complaints() -> None:
    with pytest.raises(ValueError, match=r"regulariser\.kind = 'barlow'"):
        Regulariser("views", 8, kind="barlow")
    with pytest.raises(ValueError, match=r"regulariser\.coefficients.*sigreg needs 2"):
        Regulariser("views", 8, kind="sigreg")
    single = JEPAOutput(views=normal(2, 1, 5, 8))
    with pytest.raises(ValueError, match="at least 2 samples"):
        Regulariser("views", 8)(single, batch(1), lambda x: x)


def test_projector_layers() -> None:
    assert len(projector(8, ())) == 0  # type: ignore[arg-type]
    kinds = [type(layer) for layer in projector(8, (7, 6, 5))]  # type: ignore[attr-defined]
    triple = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*triple, *triple, nn.Linear]
