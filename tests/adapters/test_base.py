"""From a run's choices to masker, target and method: what they make, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Geometry, build_encoder, build_jepa, build_masker
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.image.config import ImageConfig, ImageData
from jepa_modalities.config import (
    EncoderConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    RunConfig,
    TargetConfig,
)
from jepa_modalities.core.losses import Regulariser
from jepa_modalities.core.masking import BlockMasker, Masks
from jepa_modalities.settings import changed
from jepa_modalities.testing import tiny_batch

TINY = ImageConfig(
    data=ImageData(path="digits", size=(8, 8), channels=1, patch=2, limit=60),
    encoder=EncoderConfig(dim=16, depth=1, heads=2),
    predictor=PredictorConfig(width=16, depth=1),
    mask=MaskConfig(kind="random"),
)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_blocks_on_a_sequence_are_spans() -> None:
    config = RunConfig(mask=MaskConfig(kind="block", target_scale=(0.1, 0.2), lengths="pad"))
    masker = build_masker(config, Geometry(4, (50,)))
    assert masker is not None
    lengths = set()
    for seed in range(20):
        masks = masker(6, drawn(seed))
        assert masks.targets.shape[:2] == (6, 4)
        lengths.add(masks.targets.shape[-1])
        steps = masks.targets.diff(dim=-1)
        assert (steps == 1).all(), "a target is one span"
        assert masks.context_valid is not None
        for sample in range(6):
            seen = set(masks.context[sample, 0][masks.context_valid[sample, 0]].tolist())
            hidden = set(masks.targets[sample].flatten().tolist())
            assert not seen & hidden and max(seen | hidden) < 50
    assert min(lengths) >= 5 and max(lengths) <= 10 and len(lengths) > 2


def test_every_token_of_a_sequence_can_be_context_and_target() -> None:
    masker = BlockMasker((1, 12), 2, (0.2, 0.3), min_keep=2)
    seen, hidden = torch.zeros(12), torch.zeros(12)
    for seed in range(30):
        masks = masker(8, drawn(seed))
        seen += torch.bincount(masks.context.flatten(), minlength=12)
        hidden += torch.bincount(masks.targets.flatten(), minlength=12)
    assert (seen > 0).all() and (hidden > 0).all()


def test_grids_that_no_block_knows() -> None:
    with pytest.raises(ValueError, match=r"not a grid of \(4, 4, 4\).*'random'"):
        build_masker(RunConfig(), Geometry(4, (4, 4, 4)))
    with pytest.raises(ValueError, match=r"reference.*no sequences"):
        build_masker(RunConfig(mask=MaskConfig(reference=True)), Geometry(4, (64,)))


@pytest.mark.parametrize("field", ["dim", "depth", "heads"])
def test_sizes_that_make_no_encoder(field: str) -> None:
    config = changed(TINY, {f"encoder.{field}": 0})
    with pytest.raises(ValueError, match=rf"encoder\.{field} = 0"):
        build_encoder(config, Geometry(4, (4, 4)), nn.Linear(4, 16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask.kind": "none"}, "leave nothing to learn from"),
        ({"target.handover": (0.1, 0.5)}, r"target\.handover needs a fixed target\.kind"),
        (
            {"target.kind": "pixels", "target.handover": (0.9, 0.5)},
            r"handover = \(0\.9, 0\.5\).*ascending",
        ),
        (
            {"regulariser.kind": "sigreg", "train.accumulate": 4},
            r"train\.accumulate = 4.*'sigreg'",
        ),
        (
            {"target.centre": True, "train.accumulate": 2},
            r"train\.accumulate = 2 with target\.centre.*whole batch",
        ),
    ],
)
def test_choices_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    config = changed(TINY, settings)
    with pytest.raises(ValueError, match=message):
        build_jepa(config, ImageAdapter(config))


def test_the_seed_of_the_run_reaches_the_regulariser() -> None:
    config = changed(
        TINY,
        {
            "regulariser": RegulariserConfig("sigreg", "predicted", (8,), (1.0, 1.0)),
            "train.seed": 5,
        },
    )
    first = build_jepa(config, ImageAdapter(config))
    other = build_jepa(changed(config, {"train.seed": 6}), ImageAdapter(config))
    terms: list[Any] = [jepa.terms[1] for jepa in (first, other)]
    assert [term.seed for term in terms] == [5, 6]
    assert not torch.equal(*(term._directions(8) for term in terms))


def test_the_seed_draws_the_networks() -> None:
    adapter = ImageAdapter(TINY)
    before = torch.get_rng_state()
    first, again = build_jepa(TINY, adapter), build_jepa(TINY, adapter)
    other = build_jepa(changed(TINY, {"train.seed": 1}), adapter)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.encoder.embed.weight, other.encoder.embed.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["random", "block", "none"])
def test_every_learning_parameter_is_used(kind: str) -> None:
    """DDP would wait for ever for the gradient of an unused one."""
    regulariser = RegulariserConfig("vicreg", "views" if kind == "none" else "context", (8, 8))
    views = 2 if kind == "none" else 0
    mask = replace(TINY.mask, kind=kind, min_keep=1)  # type: ignore[arg-type]
    config = replace(TINY, mask=mask, regulariser=regulariser, views=views)
    config = changed(config, {"loss.visible": 0.5})  # without effect where nothing is masked
    jepa = build_jepa(config, ImageAdapter(config))
    batch = tiny_batch(Geometry(4, (4, 4)))
    batch = replace(batch, views=(batch.context, batch.context) if views else ())
    masker = build_masker(config, Geometry(4, (4, 4)))
    out = jepa(batch, None if masker is None else masker(4, drawn()))
    assert out.loss is not None
    out.loss.backward()
    unused = [n for n, p in jepa.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused


def test_terms_of_one_kind_keep_their_own_values() -> None:
    jepa = build_jepa(TINY, ImageAdapter(TINY))
    for weight in (0.5, 2.0):
        coefficients = (1.0, weight, 0.0)
        jepa.terms.append(Regulariser("context", 16, coefficients=coefficients, weight=weight))
    masker = build_masker(TINY, Geometry(4, (4, 4)))
    assert masker is not None
    out = jepa(tiny_batch(Geometry(4, (4, 4))), masker(4, drawn()))
    assert list(out.terms) == ["prediction", "vicreg", "vicreg_3"]
    assert out.terms["vicreg"] != out.terms["vicreg_3"]
    total = out.terms["prediction"] + 0.5 * out.terms["vicreg"] + 2 * out.terms["vicreg_3"]
    assert out.loss is not None
    torch.testing.assert_close(out.loss.detach(), total)


def test_groups_that_fit_no_block() -> None:
    jepa = build_jepa(TINY, ImageAdapter(TINY))
    masks = Masks(torch.zeros(4, 2, 3).long(), torch.ones(4, 4, 2).long())
    with pytest.raises(ValueError, match="2 context groups for 4 target blocks"):
        jepa(tiny_batch(Geometry(4, (4, 4))), masks)


@pytest.mark.parametrize("tensor", [False, True])
def test_a_void_step_leaves_the_teacher_and_its_buffers(tensor: bool) -> None:
    jepa = build_jepa(TINY, ImageAdapter(TINY))
    for encoder, value in ((jepa.encoder, 3.0), (jepa.teacher, 1.0)):
        encoder.register_buffer("running", torch.tensor(value))
    with torch.no_grad():
        for p in jepa.encoder.parameters():
            p.add_(1.0)
    before = {name: value.clone() for name, value in jepa.teacher.state_dict().items()}

    def rate(value: float) -> float | Tensor:
        return torch.tensor(value) if tensor else value

    jepa.update_teacher(rate(0.0))
    assert all(torch.equal(before[n], v) for n, v in jepa.teacher.state_dict().items())
    jepa.update_teacher(rate(0.5))
    assert float(jepa.teacher.running) == 3.0  # type: ignore[arg-type]
    torch.testing.assert_close(
        jepa.teacher.norm.weight.data,  # type: ignore[union-attr]
        before["norm.weight"] + 0.5,
    )


def test_the_schedule_reaches_target_and_terms() -> None:
    sigreg = RegulariserConfig("sigreg", "predicted", (), (1.0, 1.0))
    target = TargetConfig(kind="pixels", handover=(0.0, 1.0), rest=0.0)
    config = replace(TINY, regulariser=sigreg, target=target)
    jepa = build_jepa(config, ImageAdapter(config))
    jepa.schedule(26, 100)
    assert jepa.terms[1].step == 26
    assert jepa.target.share == pytest.approx(0.25)
