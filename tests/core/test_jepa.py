"""JEPA as a whole: who gets gradient, how the teacher moves, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Batch, Latents, Tokens
from jepa_modalities.core.block import Style
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.jepa import JEPA, JEPAOutput
from jepa_modalities.core.losses import Prediction, Regulariser, pooled, regression
from jepa_modalities.core.masking import BlockMasker, Masks, gather
from jepa_modalities.core.positions import SinCosPosition, grid_positions
from jepa_modalities.core.predictor import Predictor
from jepa_modalities.core.target import EmaTarget

GRID, FEATURES, DIM = (4, 5), 6, 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(batch: int = 8, seed: int = 0) -> Tokens:
    return Tokens(torch.randn(batch, 20, FEATURES, generator=seeded(seed)), grid_positions(*GRID))


def masks(batch: int = 8) -> Masks:
    return BlockMasker(GRID, num_targets=2)(batch, seeded(1))


def masked_batch() -> Batch:
    return Batch(tokens(), tokens())


def view_batch(keep: int | None = None) -> Batch:
    drawn = torch.rand(2, 8, 20, generator=seeded(4)).argsort(-1)
    numbers = None if keep is None else drawn[..., :keep]
    return Batch(tokens(), tokens(), (tokens(seed=2), tokens(seed=3)), numbers)


def jepa(*terms: nn.Module, predicts: bool = True, encoder: nn.Module | None = None) -> JEPA:
    torch.manual_seed(0)
    encoder = encoder or TokenEncoder(
        nn.Linear(FEATURES, DIM), SinCosPosition(DIM), DIM, 2, 2, Style(init="xavier")
    )
    predictor = Predictor(DIM, 8, 1, 2, DIM, Style(init="xavier")) if predicts else None
    target = EmaTarget(DIM) if predicts else None
    return JEPA(encoder, predictor, target, terms or [Prediction()])


def test_the_teacher_starts_as_a_copy() -> None:
    model = jepa()
    for mine, other in zip(model.teacher.parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert mine.data_ptr() != other.data_ptr()
        assert not mine.requires_grad


def test_gradient_reaches_encoder_and_predictor_but_not_the_teacher() -> None:
    model = jepa()
    out = model(masked_batch(), masks())
    assert out.loss is not None
    out.loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    for part in (model.encoder, model.predictor):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_forward_is_target_context_prediction_loss() -> None:
    model, batch, where = jepa(), masked_batch(), masks()
    with torch.no_grad():  # student and teacher apart
        for parameter in model.encoder.parameters():
            parameter.mul_(0.9)
    out = model(batch, where)
    target = gather(model.target(batch, model.teacher), where.targets)
    latents = model.encoder(batch.context, where)
    predicted = model.predictor(latents, where)
    assert out.latents is not None and out.predicted is not None and out.target is not None
    assert torch.equal(out.target, target)
    assert torch.equal(out.latents.tokens, latents.tokens)
    assert torch.equal(out.predicted, predicted)
    assert out.loss is not None
    torch.testing.assert_close(out.loss, regression(predicted, target).mean())
    torch.testing.assert_close(out.sample_loss("smooth_l1"), regression(predicted, target))
    assert not out.terms["prediction"].requires_grad


@pytest.mark.parametrize("rate", [0.25, torch.tensor(0.25)], ids=["float", "tensor"])
def test_update_teacher_by_loop(rate: float | Tensor) -> None:
    model = jepa()
    with torch.no_grad():
        for number, parameter in enumerate(model.encoder.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=seeded(number)))
    before = copy.deepcopy(model.teacher)
    model.update_teacher(rate)
    for new, old, student in zip(
        model.teacher.parameters(), before.parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * student.detach())
        assert not torch.equal(new, old)
        assert not new.requires_grad


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_rate_zero_changes_no_bit(rate: float | Tensor) -> None:
    model = jepa()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.2345)
    before = [p.clone() for p in model.teacher.parameters()]
    model.update_teacher(rate)
    assert all(torch.equal(a, b) for a, b in zip(before, model.teacher.parameters(), strict=True))


class Normed(nn.Module):
    """An encoder with buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)

    def forward(self, x: Tokens, keep: Tensor | None = None) -> Latents:
        return Latents(self.norm(x.values.transpose(1, 2)).transpose(1, 2), x.positions)


def test_buffers_are_copied_to_the_teacher() -> None:
    model = jepa(Regulariser("views", FEATURES), predicts=False, encoder=Normed())
    model(view_batch())
    assert float(model.encoder.norm.running_mean.abs().sum()) > 0
    assert float(model.teacher.norm.running_mean.abs().sum()) == 0
    model.update_teacher(0.5)
    assert torch.equal(model.teacher.norm.running_mean, model.encoder.norm.running_mean)


@pytest.mark.parametrize("keep", [None, 7])
def test_two_views_only(keep: int | None) -> None:
    term = Regulariser("views", DIM, (12, 12))
    model, batch = jepa(term, predicts=False), view_batch(keep)
    out = model(batch)
    assert out.predicted is None and out.target is None and out.latents is None
    assert out.views is not None
    assert out.views.shape == (2, 8, keep or 20, DIM)
    for number, view in enumerate(batch.views):  # one pass over all views equals one pass each
        chosen = None if batch.keep is None else batch.keep[number]
        expected = model.encoder(view, keep=chosen).tokens
        torch.testing.assert_close(out.views[number], expected, rtol=1e-4, atol=1e-5)
    assert list(out.terms) == ["vicreg"]
    assert out.loss is not None
    torch.testing.assert_close(out.loss.detach(), out.terms["vicreg"])
    out.loss.backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0


def test_both_terms_are_weighed_and_summed() -> None:
    terms = Prediction(weight=2.0), Regulariser("views", DIM, weight=0.001)
    model, batch = jepa(*terms), view_batch()
    out = model(batch, masks())
    assert set(out.terms) == {"prediction", "vicreg"}
    expected = 2.0 * out.terms["prediction"] + 0.001 * out.terms["vicreg"]
    assert out.loss is not None
    torch.testing.assert_close(out.loss.detach(), expected)


def test_c_jepa_regularises_the_predicted_blocks() -> None:
    term = Regulariser("predicted", DIM)
    model = jepa(Prediction(), term)
    out = model(masked_batch(), masks())
    expected = term(out, masked_batch(), lambda x: x)
    torch.testing.assert_close(out.terms["vicreg"], expected.detach())
    assert pooled(out, "predicted").shape == (8, 2, DIM)
    padded = BlockMasker(GRID, num_targets=2, lengths="pad")(8, seeded(1))
    assert jepa()(masked_batch(), padded).context_valid is padded.context_valid
    assert pooled(out, "predicted").requires_grad  # no stop-gradient on either block


@pytest.mark.parametrize("kind", ["masked", "views"])
def test_loss_falls_on_a_fixed_batch(kind: str) -> None:
    if kind == "masked":
        model, batch, where = jepa(), masked_batch(), masks()
    else:
        model = jepa(Regulariser("views", DIM), predicts=False)
        batch, where = view_batch(), None  # type: ignore[assignment]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(batch, where).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_teacher(0.004)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_bf16_step_is_finite() -> None:
    model = jepa(Prediction(), Regulariser("predicted", DIM, (8, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(masked_batch(), masks())
    assert out.predicted is not None and out.predicted.dtype == torch.bfloat16
    assert out.loss is not None and out.loss.dtype == torch.float32
    out.loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all()


def test_batch_moves_all_its_parts() -> None:
    batch = view_batch(5)
    moved = batch.to("cpu")
    assert torch.equal(moved.context.values, batch.context.values)
    assert len(moved.views) == 2
    assert torch.equal(moved.views[1].values, batch.views[1].values)
    assert torch.equal(moved.keep, batch.keep)  # type: ignore[arg-type]
    meta = batch.to("meta")
    assert meta.context.values.is_meta and meta.views[0].positions.is_meta
    assert meta.labels is None
    assert len(batch.context) == 8


@pytest.mark.parametrize(("stop", "predictor"), [(True, True), (False, True), (False, False)])
def test_linear_theory_of_collapse(stop: bool, predictor: bool) -> None:
    """C-JEPA's linear modes (spec 2.4), as regression of lambda z on z with a fixed predictor.

    With the gradient stopped dz/dt = eta lambda (1 - lambda) z: what is predicted too small grows.
    Without the stop dz/dt = -eta (1 - lambda)^2 z: collapse. Without a predictor nothing moves.
    """
    eta = 1e-3
    z = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    share = torch.tensor([0.3, 0.6, 0.9]) if predictor else torch.ones(3)
    target = z.detach() if stop else z
    # Mean over 3 modes of (lambda z - target)^2, times 3 / 2: the gradient of half the square.
    error = regression((share * z).view(1, 1, 1, 3), target.view(1, 1, 1, 3), "mse")
    (1.5 * error.sum()).backward()
    assert z.grad is not None
    found = -eta * z.grad
    if not predictor:
        expected = torch.zeros(3)
    elif stop:
        expected = eta * share * (1 - share) * z.detach()
    else:
        expected = -eta * (1 - share).square() * z.detach()
    torch.testing.assert_close(found, expected)


class Sum(nn.Module):
    """A term that looks at what is predicted and at the masks."""

    name, weight = "sum", 2.0

    def forward(self, output: JEPAOutput, batch: Batch, gather: object) -> Tensor:
        assert output.masks is not None and output.predicted is not None
        assert output.predicted.shape[:3] == output.masks.targets.shape
        return output.predicted.mean()


def test_prediction_without_a_target() -> None:
    model = jepa(Sum())
    model.target = None
    out = model(masked_batch(), masks())
    assert out.target is None and list(out.terms) == ["sum"]
    torch.testing.assert_close(out.loss, 2 * out.predicted.mean())
    model.schedule(1, 10)
    out.loss.backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
