"""The loop: rates before the first step, micro-batches, void steps, exact resume, collapse."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.config import RegulariserConfig, RunConfig, TrainConfig
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.draw import Schedule
from jepa_modalities.core.masking import Masks
from jepa_modalities.settings import changed
from jepa_modalities.train import checkpoint
from jepa_modalities.train.distributed import Processes
from jepa_modalities.train.engine import (
    Interrupted,
    NonFiniteLoss,
    Trainer,
    untrained,
)
from jepa_modalities.train.log import Log, read
from jepa_modalities.train.plan import check, num_steps, plan, precision
from jepa_modalities.train.state import model_state

ALONE = Processes(0, 1, torch.device("cpu"))


def train(
    folder: Path, config: Any, resume: bool = False, kind: type[ImageAdapter] = ImageAdapter
) -> Trainer:
    folder.mkdir(exist_ok=True)
    trainer = Trainer(kind(config), config, folder, ALONE)
    if resume:
        trainer.resume()
    log = Log(folder)
    try:
        trainer.run(log)
    finally:
        log.close()
    return trainer


def ending(last: int) -> type[ImageAdapter]:
    """Data that end after a step, as a power cut would."""

    class Ending(ImageAdapter):
        def feed(self, *args: Any) -> Iterator[tuple[Batch, Masks | None]]:
            for number, item in enumerate(super().feed(*args)):
                if number == last:
                    raise KeyboardInterrupt
                yield item

    return Ending


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read(folder)]


def test_rates_are_set_before_the_first_step(tmp_path: Path, runs: ModuleType) -> None:
    config = changed(
        runs.RUNS["ijepa"],
        {"train.lr_start": 0.01, "train.ema": (0.75, 1.0), "train.clip": None},
    )
    start = build_jepa(config, ImageAdapter(config))
    trainer = Trainer(ending(1)(config), config, tmp_path, ALONE)
    log = Log(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(log)
    log.close()
    jepa = trainer.jepa
    record = read(tmp_path)[0]
    assert (record["step"], record["lr"], record["momentum"]) == (1, 0.01, 0.75)
    before, after = start.encoder.embed.bias, jepa.encoder.embed.bias
    # Adam's first step moves by the learning rate, whatever the gradient's size.
    torch.testing.assert_close(
        (after - before).abs(), torch.full_like(before, 0.01), rtol=1e-3, atol=0
    )
    expected = 0.75 * before + 0.25 * after
    torch.testing.assert_close(jepa.teacher.embed.bias.data, expected.data)


def test_the_log_has_one_record_per_step(tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS["cjepa"], {"train.log_every": 5, "train.monitor_every": 8})
    train(tmp_path, config)
    records = read(tmp_path)
    assert [record["step"] for record in records] == [5, 8, 10, 15, 16, 20]
    for record in records:
        terms = record["term/prediction"] + 0.1 * record["term/vicreg"]
        assert record["loss"] == pytest.approx(terms, rel=1e-5)
        assert math.isfinite(record["gradient_norm"]) and record["samples_per_second"] > 0
    assert ["collapse/rankme" in record for record in records] == [
        step in (8, 16, 20) for step in (5, 8, 10, 15, 16, 20)
    ]


@pytest.mark.parametrize("target", ["ema", "hog"])
def test_micro_batches_train_like_one_batch(target: str, tmp_path: Path, runs: ModuleType) -> None:
    """Same rows, trimmed block masks, flips and shifts; the masks of a step are drawn once."""
    whole = changed(runs.RUNS["ijepa"], {"target.kind": target})
    for number in (1, 2, 4):
        folder, config = tmp_path / str(number), changed(whole, {"train.accumulate": number})
        folder.mkdir()
        trainer, calls = Trainer(ImageAdapter(config), config, folder, ALONE), []
        masker = trainer.masker
        assert masker is not None
        trainer.masker = lambda *args, masker=masker, calls=calls: calls.append(1) or masker(*args)
        log = Log(folder)
        trainer.run(log)
        log.close()
        assert len(calls) == 20, f"accumulate = {number}"
        assert len(losses(folder)) == 20
        assert losses(folder) == pytest.approx(losses(tmp_path / "1"), abs=1e-5, rel=0)
    assert losses(folder)[0] != losses(folder)[-1]


def test_batch_statistics_refuse_micro_batches(runs: ModuleType) -> None:
    config = changed(runs.RUNS["cjepa"], {"train.accumulate": 2})
    with pytest.raises(ValueError, match=r"train\.accumulate = 2.*'vicreg'.*whole batch"):
        build_jepa(config, ImageAdapter(config))


def test_bf16_runs_on_fp32_weights(tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS["cjepa"], {"train.steps": 3})
    for kind in ("fp32", "bf16"):
        jepa = train(tmp_path / kind, changed(config, {"train.precision": kind})).jepa
        assert {p.dtype for p in jepa.parameters()} == {torch.float32}
    fp32, bf16 = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=0.05)


def test_precision_of_the_products() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    found = {kind: precision(TrainConfig(precision=kind), cpu) for kind in ("auto", "fp32", "bf16")}  # type: ignore[arg-type]
    assert found == {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    assert precision(TrainConfig(precision="auto"), cuda) == torch.bfloat16
    assert precision(TrainConfig(precision="fp32"), cuda) == torch.float32


class Broken(ImageAdapter):
    """Sample 7 is NaN."""

    def feed(self, *args: Any) -> Iterator[tuple[Batch, Masks | None]]:
        for batch, masks in super().feed(*args):
            assert batch.ids is not None
            values = batch.context.values.clone()
            values[batch.ids == 7] = math.nan
            yield replace(batch, context=replace(batch.context, values=values)), masks


class InfiniteTarget(nn.Module):
    """Targets of sample 7 are infinite: smooth-L1 then has finite gradients."""

    def forward(self, raw: Tensor) -> Tensor:
        # Digits have grey values that are multiples of 1/16: the sum tells this sample.
        out = raw.flatten(1)[:, :16, None].repeat(1, 1, 2) / 255
        return torch.where((raw.flatten(1).sum(1) == self.mark).view(-1, 1, 1), math.inf, out)

    def __init__(self, mark: float) -> None:
        super().__init__()
        self.mark = mark


class Infinite(ImageAdapter):
    def target(self) -> tuple[nn.Module, int] | None:
        assert self.source.images is not None
        return InfiniteTarget(float(self.source.images[7].sum())), 2


@pytest.mark.parametrize("kind", [Broken, Infinite])
def test_a_loss_that_is_not_finite_voids_the_step_and_ends_the_run(
    kind: type[ImageAdapter], tmp_path: Path, runs: ModuleType
) -> None:
    config = changed(
        runs.RUNS["ijepa"],
        {"target.kind": "hog", "augment": type(runs.RUNS["ijepa"].augment)(), "target.cache": False}
        if kind is Infinite
        else {},
    )
    schedule = Schedule(180, config.train.batch_size, config.train.seed)
    sums = kind(config).source.images.flatten(1).sum(1)  # type: ignore[union-attr]
    bad = [7] if kind is Broken else (sums == sums[7]).nonzero().flatten().tolist()
    step = next(n for n in range(1, 21) if set(bad) & set(schedule.rows(n).tolist()))
    assert step > 1
    ids = "[7]" if kind is Broken else str(schedule.rows(step).tolist())
    short = changed(config, {"train.log_every": step})
    folder = tmp_path / "run"
    folder.mkdir()
    trainer = Trainer(kind(short), short, folder, ALONE)
    optimise, states = trainer._optimise, []

    def watched(number: int, *args: Any) -> Any:
        states.append(model_state(trainer.jepa))
        states[-1] |= {
            str(i): p["step"].clone() for i, p in enumerate(trainer.optimizer.state.values())
        }
        return optimise(number, *args)

    trainer._optimise = watched  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss, match=rf"step {step} is not finite") as caught:
        trainer.run(None)
    assert ids in str(caught.value).replace("\n", " ")
    now = model_state(trainer.jepa)
    now |= {str(i): p["step"] for i, p in enumerate(trainer.optimizer.state.values())}
    assert len(states) == step
    assert all(torch.equal(now[name], value) for name, value in states[-1].items())
    if step > 2:
        assert any(not torch.equal(states[-2][name], value) for name, value in states[-1].items())


@pytest.mark.parametrize("name", ["joint", "sigreg"])
def test_a_resumed_run_goes_on_bit_for_bit(name: str, tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS[name], {"train.checkpoint_every": 4})
    whole = train(tmp_path / "whole", config)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, kind=ending(10))
    assert [record["step"] for record in read(tmp_path / "cut")] == list(range(1, 11))
    torch.manual_seed(99)  # nothing may depend on the new process's own numbers
    again = train(tmp_path / "cut", config, resume=True)
    first, second = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert [record["step"] for record in second] == list(range(1, 21))
    for key in ("loss", "gradient_norm", "lr", "weight_decay", "momentum", "collapse/rankme"):
        assert [record.get(key) for record in first] == [record.get(key) for record in second], key
    for key, value in model_state(whole.jepa).items():
        assert torch.equal(value, model_state(again.jepa)[key]), key
    if name == "joint":
        assert again.jepa.target.share == 1.0  # the hand-over was complete at 60 % of the run
    else:
        assert [trainer.jepa.terms[1].step for trainer in (whole, again)] == [20, 20]
    assert again.monitor.start == whole.monitor.start and again.monitor.best == whole.monitor.best


def test_an_older_checkpoint_becomes_the_last(tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS["ijepa"], {"train.checkpoint_every": 8})
    train(tmp_path, config)
    assert checkpoint.steps(tmp_path) == [16, 20]
    trainer = Trainer(ImageAdapter(config), config, tmp_path, ALONE)
    trainer.resume(16)
    assert checkpoint.steps(tmp_path) == [16]
    assert [record["step"] for record in read(tmp_path)] == list(range(1, 17))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS["ijepa"], {"train.steps": 1})
    train(tmp_path, config)
    other = changed(config, {"encoder.depth": 3})
    with pytest.raises(checkpoint.CheckpointError, match="of another model"):
        Trainer(ImageAdapter(other), other, tmp_path, ALONE).resume()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(number: int, tmp_path: Path, runs: ModuleType) -> None:
    config = changed(runs.RUNS["ijepa"], {"train.checkpoint_every": 1000})

    class Stopped(ImageAdapter):
        def feed(self, *args: Any) -> Iterator[tuple[Batch, Masks | None]]:
            for step, item in enumerate(super().feed(*args), start=1):
                if step == 6:
                    os.kill(os.getpid(), number)
                yield item

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=rf"step 6 of 20.*--out {tmp_path} --resume"):
        train(tmp_path, config, kind=Stopped)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert checkpoint.steps(tmp_path) == [6]


def collapsing(runs: ModuleType, **changes: Any) -> Any:
    """Two views with nothing but the invariance term: the constant solution is the best one."""
    alone = RegulariserConfig("vicreg", "views", (), (1.0, 0.0, 0.0), weight=1.0)
    settings = {"regulariser": alone, "train.steps": 120, "train.ema": (0.5, 0.5), **changes}
    return changed(runs.RUNS["views"], {"train.monitor_every": 20, **settings})


def test_the_verdict_tells_a_collapsed_from_a_healthy_run(tmp_path: Path, runs: ModuleType) -> None:
    trainer = train(tmp_path / "bad", collapsing(runs))
    bad = [record for record in read(tmp_path / "bad") if "state" in record]
    assert bad[-1]["state"] == "collapsed" and "collapsed" in trainer.verdict
    start = trainer.monitor.start
    assert f"at the start {start['rankme']:.1f}" in trainer.verdict
    assert bad[-1]["collapse/spread"] < 0.1 * start["spread"]
    healthy = collapsing(runs, regulariser=runs.RUNS["views"].regulariser)
    good = train(tmp_path / "good", healthy)
    states = [record["state"] for record in read(tmp_path / "good") if "state" in record]
    assert states == ["healthy"] * 6 and "healthy" in good.verdict


def test_a_collapsed_run_ends_if_asked(tmp_path: Path, runs: ModuleType) -> None:
    config = collapsing(runs, **{"train.stop_on_collapse": True, "train.steps": 400})
    tmp_path.joinpath("run").mkdir()
    trainer = Trainer(ImageAdapter(config), config, tmp_path / "run", ALONE)
    trained = trainer.run(None)
    assert trained.collapsed and trained.step < 400
    assert checkpoint.steps(tmp_path / "run")[-1] == trained.step


def test_steps_of_epochs() -> None:
    config = TrainConfig(epochs=2.5, batch_size=16, warmup_epochs=1)
    assert num_steps(config, 100) == (math.ceil(2.5 * 100 / 16), round(100 / 16))
    assert num_steps(replace(config, epochs=0.001), 100) == (1, 0)


def test_the_warm_up_is_a_share_of_the_run_unless_it_is_counted() -> None:
    config = TrainConfig(steps=1000, batch_size=10, warmup_epochs=7, warmup=0.05)
    assert num_steps(config, 100) == (1000, 50)
    assert num_steps(replace(config, steps=100), 100) == (100, 5)
    assert num_steps(replace(config, warmup=0.0), 100) == (1000, 0)
    assert num_steps(replace(config, warmup_steps=3), 100) == (1000, 3)
    # One that is given replaces those that would count before it.
    run = RunConfig(train=replace(config, warmup_steps=500))
    assert num_steps(changed(run, {"train.warmup": 0.1}).train, 100) == (1000, 100)
    assert num_steps(changed(run, {"train.warmup_epochs": 2}).train, 100) == (1000, 20)


def test_a_warm_up_that_fills_the_run_is_told() -> None:
    config = TrainConfig(steps=7, warmup_steps=50)
    with pytest.warns(UserWarning, match=r"warm-up of 50 steps fills this run of 7.*train\.warmup"):
        assert num_steps(config, 100) == (7, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert num_steps(replace(config, warmup_steps=6), 100) == (7, 6)
        assert num_steps(replace(config, steps=1), 100) == (1, 0)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_every_row_is_fed_once_at_every_split(accumulate: int, world: int) -> None:
    config = TrainConfig(batch_size=8, accumulate=accumulate)
    schedule = Schedule(20, 8, 0)
    rows: dict[int, list[int]] = {1: [], 2: [], 3: []}
    uniform: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for rank in range(world):
        peers = Processes(rank, world, torch.device("cpu"))
        for number, (ids, draw) in enumerate(plan(config, schedule, peers, 1, 3)):
            step = number // accumulate + 1
            rows[step] += ids.tolist()
            uniform[step] += draw.uniform().tolist()
    alone = Processes(0, 1, torch.device("cpu"))
    for step, (ids, draw) in enumerate(
        plan(replace(config, accumulate=1), schedule, alone, 1, 3), start=1
    ):
        assert sorted(rows[step]) == sorted(ids.tolist()) == sorted(schedule.rows(step).tolist())
        pairs = dict(zip(ids.tolist(), draw.uniform().tolist(), strict=True))
        assert dict(zip(rows[step], uniform[step], strict=True)) == pairs


@pytest.mark.parametrize(
    ("setting", "world", "message"),
    [
        ({"batch_size": 9}, 2, r"batch_size = 9.*2 processes x 1.*multiple of 2"),
        ({"batch_size": 6, "accumulate": 4}, 1, r"x 4 micro-batches"),
        ({"batch_size": 0}, 1, r"train\.batch_size = 0"),
        ({"log_every": 0}, 1, r"train\.log_every = 0: give at least 1"),
        ({"steps": 0}, 1, r"train\.steps = 0"),
        ({"checkpoint_every": 0}, 1, r"train\.checkpoint_every = 0"),
        ({"monitor_every": -1}, 1, r"train\.monitor_every = -1"),
        ({"warmup": 1.0}, 1, r"train\.warmup = 1\.0: give a share"),
        ({"workers": -1}, 1, r"train\.workers = -1: give at least 0"),
        ({"epochs": 0.0}, 1, r"train\.epochs = 0\.0"),
    ],
)
def test_impossible_settings_are_named(setting: dict[str, Any], world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(TrainConfig(**setting), Processes(0, world, torch.device("cpu")))


def test_untrained_encoders_differ_by_seed_and_leave_the_generator(runs: ModuleType) -> None:
    config = runs.RUNS["ijepa"]
    adapter = ImageAdapter(config)
    before = torch.get_rng_state()
    make: Callable[[int], Tensor] = lambda seed: untrained(config, adapter, seed).embed.weight  # noqa: E731
    assert torch.equal(make(0), make(0)) and not torch.equal(make(0), make(1))
    assert torch.equal(before, torch.get_rng_state())
