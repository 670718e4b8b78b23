"""Checks that any adapter must pass, for this package's modalities and for those of others."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import Adapter, Geometry, build_jepa, build_masker
from jepa_modalities.core.batch import Batch, Tokens
from jepa_modalities.core.draw import Draw
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.core.masking import Masks, gather
from jepa_modalities.core.positions import grid_positions

CPU = torch.device("cpu")


def tiny_batch(geometry: Geometry, batch_size: int = 4, seed: int = 0) -> Batch:
    """A batch of standard normal tokens for tests of encoders and methods.

    Args:
        geometry: features and grid of a sample.
        batch_size: samples.
        seed: fixes the numbers.

    Returns:
        Batch whose context and target are the same (batch, tokens, features), with ids.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, geometry.num_tokens, geometry.features)
    values = torch.randn(shape, generator=generator)
    tokens = Tokens(values, grid_positions(*geometry.grid))
    return Batch(tokens, tokens, ids=torch.arange(batch_size))


def check_adapter(adapter: Adapter) -> None:
    """Assert that an adapter keeps the contract of `adapters.base.Adapter`.

    The networks are built from `adapter.config`, so open the adapter with a tiny one (width 16,
    depth 2, a few dozen samples): the whole check then takes about a second on one CPU thread.

    Args:
        adapter: with its data open; at least 4 training samples.

    Raises:
        AssertionError: with a sentence that names what is wrong.
    """
    size = min(len(adapter), 8) // 2 * 2
    _require(size >= 4, f"the adapter holds {len(adapter)} training samples; 4 are needed")
    if build_masker(adapter.config, adapter.geometry) is not None:
        mixes = getattr(adapter.embedding(), "mixes_tokens", False)
        _require(
            not mixes, "the embedding mixes tokens, so hidden input leaks into the context latents"
        )
    batch, masks = _feed(adapter, 1, size)
    _check_shapes(adapter, batch, size)
    _check_determinism(adapter, batch, masks, size)
    _check_split(adapter, batch, masks, size)
    _check_monitor(adapter)
    if masks is not None:
        _check_masks(adapter, masks, batch)
        _check_leak(adapter, batch, masks)
    _check_gradient(adapter, batch, masks)
    _check_teacher(adapter)
    _check_state(adapter, batch, masks)
    _check_bf16(adapter, batch, masks)
    _check_learning(adapter, batch, masks)


def _require(condition: bool, sentence: str) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(sentence)


def _feed(
    adapter: Adapter, step: int, size: int, start: int = 0, stop: int | None = None
) -> tuple[Batch, Masks | None]:
    """Rows start..stop-1 of the batch of one step, as one process would get them."""
    stop = size if stop is None else stop
    draw = Draw.of_step(0, step, size, start, stop)
    masker = build_masker(adapter.config, adapter.geometry)
    feed = list(adapter.feed([(torch.arange(start, stop), draw)], masker, CPU))
    _require(len(feed) == 1, f"feed made {len(feed)} batches of a plan of 1")
    batch, masks = feed[0]
    _require(
        (masks is None) == (masker is None),
        "feed gives no masks although the run has a masker"
        if masks is None
        else "feed gives masks although the run has no masker",
    )
    return batch, masks


def _built(adapter: Adapter, seed: int = 0) -> JEPA:
    """The method of the adapter's run, with every target and term taking part."""
    train = replace(adapter.config.train, seed=seed)
    jepa = build_jepa(replace(adapter.config, train=train), adapter)
    if jepa.target is not None:
        jepa.target.schedule(1.0)
    return jepa


def _tensors(item: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch or of masks that has an axis of samples, with its name."""
    if isinstance(item, Tensor):
        yield name, item
    elif isinstance(item, Tokens):
        yield f"{name}.values", item.values
        if item.valid is not None:
            yield f"{name}.valid", item.valid
    elif isinstance(item, tuple):
        for number, part in enumerate(item):
            yield from _tensors(part, f"{name}[{number}]")
    elif isinstance(item, (Batch, Masks)):
        for field in fields(item):
            yield from _tensors(getattr(item, field.name), f"{name}.{field.name}")


def _check_shapes(adapter: Adapter, batch: Batch, size: int) -> None:
    geometry, dim = adapter.geometry, adapter.config.encoder.dim
    count, axes = geometry.num_tokens, len(geometry.grid)
    views = [(f"views[{number}]", view) for number, view in enumerate(batch.views)]
    for name, tokens in [("context", batch.context), ("target", batch.target), *views]:
        expected: tuple[int, ...] = (size, count, geometry.features)
        found = tuple(tokens.values.shape)
        _require(found == expected, f"batch.{name}.values is {found}, geometry says {expected}")
        _require(
            tokens.values.is_floating_point() and bool(tokens.values.isfinite().all()),
            f"batch.{name}.values must be finite floating-point numbers",
        )
        found, expected = tuple(tokens.positions.shape), (count, axes)
        _require(found == expected, f"batch.{name}.positions is {found}, geometry says {expected}")
        if tokens.valid is not None:
            found, expected = tuple(tokens.valid.shape), (size, count)
            _require(
                found == expected and tokens.valid.dtype == torch.bool,
                f"batch.{name}.valid is {found} {tokens.valid.dtype}, expected {expected} bool",
            )
    if batch.ids is not None:
        _require(
            torch.equal(batch.ids.cpu(), torch.arange(size)),
            "batch.ids are not the row numbers of the plan",
        )
    embedded = tuple(adapter.embedding()(batch.context.values).shape)
    expected = (size, count, dim)
    _require(embedded == expected, f"the embedding makes {embedded}, expected {expected}")
    fixed = adapter.target() if adapter.config.mask.kind != "none" else None
    if fixed is not None:
        function, width = fixed
        _require(batch.raw is not None, "batch.raw is None, but the fixed target looks at it")
        made, expected = tuple(function(batch.raw).shape), (size, count, width)
        _require(made == expected, f"the fixed target makes {made}, expected {expected}")


def _check_determinism(adapter: Adapter, batch: Batch, masks: Masks | None, size: int) -> None:
    again = _feed(adapter, 1, size)
    for old, new, name in ((batch, again[0], "batch"), (masks, again[1], "masks")):
        for (label, first), (_, second) in zip(
            _tensors(old, name), _tensors(new, name), strict=True
        ):
            _require(
                torch.equal(first, second),
                f"feed is not deterministic: {label} differs between two runs of the same plan",
            )
    if masks is not None:
        others = [_feed(adapter, step, size)[1] for step in range(2, 6)]
        same = [m is not None and torch.equal(m.targets, masks.targets) for m in others]
        _require(not all(same), "feed gives the same masks at every step: it ignores the draw")


def _check_split(adapter: Adapter, batch: Batch, masks: Masks | None, size: int) -> None:
    """Two processes with half of the rows each see what one sees."""
    halves = [_feed(adapter, 1, size, start, start + size // 2) for start in (0, size // 2)]
    for side, (whole, name) in enumerate(((batch, "batch"), (masks, "masks"))):
        parts = [dict(_tensors(half[side], name)) for half in halves]
        for label, expected in _tensors(whole, name):
            axis = 1 if label == "batch.keep" else 0
            _require(
                all(label in part for part in parts),
                f"{label} is missing when the batch is split over 2 processes",
            )
            both = torch.cat([part[label] for part in parts], dim=axis)
            _require(
                both.shape == expected.shape and bool(torch.isclose(both, expected).all()),
                f"{label} changes when the batch is split over 2 processes",
            )


def _check_monitor(adapter: Adapter) -> None:
    tokens, labels = adapter.monitor()
    found, expected = tuple(tokens.values.shape[1:]), adapter.geometry
    _require(
        found == (expected.num_tokens, expected.features),
        f"monitor() gives tokens of {found}, geometry says "
        f"{(expected.num_tokens, expected.features)}",
    )
    if labels is not None:
        _require(
            len(labels) == len(tokens),
            f"monitor() gives {len(tokens)} samples and {len(labels)} labels",
        )
    again, _ = adapter.monitor()
    _require(
        torch.equal(again.values, tokens.values), "monitor() gives other samples at the next call"
    )


def _seen(masks: Masks, num_tokens: int) -> Tensor:
    """Tokens whose content each context group sees, bool, (batch, groups, tokens)."""
    shown = torch.ones_like(masks.context, dtype=torch.bool)
    if masks.hidden is not None:
        shown &= ~masks.hidden
    if masks.context_valid is not None:
        shown &= masks.context_valid
    # A position outside the sample takes what must not be marked.
    spare = masks.context.masked_fill(~shown, num_tokens)
    map_ = torch.zeros(*masks.context.shape[:2], num_tokens + 1, dtype=torch.bool)
    return map_.scatter_(2, spare, True)[..., :-1]


def _check_masks(adapter: Adapter, masks: Masks, batch: Batch) -> None:
    count = adapter.geometry.num_tokens
    size, groups = masks.context.shape[:2]
    blocks = masks.targets.shape[1]
    _require(
        size == len(batch.context) == len(masks.targets),
        f"masks are for {size} and {len(masks.targets)} samples, not for {len(batch.context)}",
    )
    _require(
        groups in (1, blocks),
        f"masks have {groups} context groups for {blocks} target blocks; give 1 or {blocks}",
    )
    for name, index in (("context", masks.context), ("targets", masks.targets)):
        _require(index.dtype == torch.long, f"masks.{name} is {index.dtype}, expected int64")
        _require(index.numel() > 0, f"masks.{name} is empty: {tuple(index.shape)}")
        low, high = int(index.min()), int(index.max())
        _require(
            low >= 0 and high < count,
            f"masks.{name} names tokens {low} to {high}, but a sample has tokens 0 to {count - 1}",
        )
        if batch.context.valid is not None:
            real = gather(batch.context.valid, index)
            if name == "context" and masks.context_valid is not None:
                real = real | ~masks.context_valid
            _require(bool(real.all()), f"masks.{name} names padding tokens")
    seen = _seen(masks, count)
    _require(bool(seen.any(-1).all()), "a sample's context is empty")
    met = seen.expand(-1, blocks, -1).gather(2, masks.targets)
    _require(
        not met.any(),
        f"context and targets overlap: {int(met.sum())} target tokens are visible in the context",
    )


@torch.no_grad()
def _check_leak(adapter: Adapter, batch: Batch, masks: Masks) -> None:
    """Change what is hidden: the embedding of the rest and the context latents must not move."""
    encoder, tokens = _built(adapter).encoder.eval(), batch.context
    seen = _seen(masks, adapter.geometry.num_tokens)
    before = encoder(tokens, masks).tokens
    for group in range(masks.context.shape[1]):
        visible = seen[:, group]
        noise = torch.randn(tokens.values.shape, generator=torch.Generator().manual_seed(group))
        noise = noise.to(tokens.values.dtype)
        changed = replace(tokens, values=torch.where(visible[..., None], tokens.values, noise))
        whole = encoder.embed(tokens.values)[visible]  # type: ignore[operator]
        other = encoder.embed(changed.values)[visible]  # type: ignore[operator]
        _require(
            torch.allclose(whole, other, rtol=1e-4, atol=1e-5),
            "the embedding leaks: a visible token's embedding changes with hidden input",
        )
        after = encoder(changed, masks).tokens
        _require(
            torch.equal(before[:, group], after[:, group]),
            "hidden input leaks: the context latents change with it",
        )


def _check_gradient(adapter: Adapter, batch: Batch, masks: Masks | None) -> None:
    jepa = _built(adapter).train()
    out = jepa(batch, masks)
    _require(bool(torch.isfinite(out.loss)), f"the loss of the first step is {out.loss.item()}")
    _require(out.target is None or not out.target.requires_grad, "the target carries gradient")
    out.loss.backward()
    parts: list[tuple[str, nn.Module | None]] = [
        ("the embedding", getattr(jepa.encoder, "embed", None)),
        ("the context encoder", jepa.encoder),
        ("the predictor", jepa.predictor),
    ]
    for name, part in parts:
        learned = [] if part is None else [p for p in part.parameters() if p.requires_grad]
        reached = any(p.grad is not None and bool(p.grad.any()) for p in learned)
        _require(reached or not learned, f"no gradient reaches {name}")
    _require(all(p.grad is None for p in jepa.teacher.parameters()), "gradient reaches the teacher")


@torch.no_grad()
def _check_teacher(adapter: Adapter) -> None:
    jepa = _built(adapter)
    generator = torch.Generator().manual_seed(0)
    for parameter in jepa.encoder.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator))
    before = [p.clone() for p in jepa.teacher.parameters()]
    jepa.update_teacher(0.25)
    pairs = zip(before, jepa.teacher.parameters(), jepa.encoder.parameters(), strict=True)
    for old, new, student in pairs:
        _require(
            torch.allclose(new, 0.75 * old + 0.25 * student, atol=1e-6),
            "the teacher is not the moving average of the student",
        )


@torch.no_grad()
def _check_state(adapter: Adapter, batch: Batch, masks: Masks | None) -> None:
    """Weights that went through a file give the same loss in a freshly built method."""
    first, second = _built(adapter, 0).eval(), _built(adapter, 1).eval()
    for mine, other in zip(first.terms, second.terms, strict=True):
        if hasattr(mine, "seed"):  # of random directions: a choice of the run, no state
            other.seed = mine.seed
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    _require(
        torch.equal(first(batch, masks).loss, second(batch, masks).loss),
        "a state dict that was saved and loaded gives another loss: something is not in it",
    )
    blank = copy.deepcopy(adapter.tokenizer)
    blank.load_state_dict(adapter.tokenizer.state_dict())


def _check_bf16(adapter: Adapter, batch: Batch, masks: Masks | None) -> None:
    jepa = _built(adapter).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = jepa(batch, masks).loss
    loss.backward()
    grads = [p.grad for p in jepa.parameters() if p.grad is not None]
    _require(
        bool(torch.isfinite(loss)) and all(bool(g.isfinite().all()) for g in grads),
        "a step under bfloat16 autocast is not finite",
    )


def _check_learning(adapter: Adapter, batch: Batch, masks: Masks | None, steps: int = 30) -> None:
    jepa = _built(adapter).train()
    optimizer = torch.optim.AdamW([p for p in jepa.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = jepa(batch, masks).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    _require(
        min(losses[-3:]) < losses[0],
        f"the loss does not fall on a fixed batch: {losses[0]:.4g} at first, {losses[-1]:.4g} "
        f"after {steps} steps",
    )
