"""The loop: set the rates, forward, backward, step, teacher; log, look, save."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from jepa_modalities.adapters.base import Adapter, build_encoder, build_jepa, build_masker
from jepa_modalities.config import RunConfig
from jepa_modalities.core.draw import Schedule, fixed_random
from jepa_modalities.core.jepa import JEPA, JEPAOutput
from jepa_modalities.export.encoder import save_encoder
from jepa_modalities.train import checkpoint
from jepa_modalities.train.distributed import Processes, gather, gather_numbers, wrap
from jepa_modalities.train.log import Log, cut
from jepa_modalities.train.monitor import Monitor
from jepa_modalities.train.optim import apply_rates, gradient_norm, guarded_step, optimiser, rates
from jepa_modalities.train.plan import check, num_steps, plan, precision
from jepa_modalities.train.profile import Speed
from jepa_modalities.train.progress import Display
from jepa_modalities.train.state import load_model, load_optimiser, model_state, optimiser_state


class Interrupted(RuntimeError):
    """Ctrl-C or SIGTERM: a checkpoint was written."""


class NonFiniteLoss(RuntimeError):
    """Gradients were not finite; the step changed nothing."""


@dataclass
class Trained:
    """What the loop leaves.

    Attributes:
        jepa: trained networks, on the device.
        step: optimiser steps done.
        samples_per_second: over all steps of this call, monitor and checkpoints left out.
        verdict: last sentence of the collapse monitor.
        collapsed: whether the run was ended because of it.
        start: collapse statistics of the untrained encoder.
    """

    jepa: JEPA
    step: int
    samples_per_second: float
    verdict: str
    collapsed: bool
    start: dict[str, float]


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second Ctrl-C interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay as they are
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """The state of one run and its loop.

    Args:
        adapter: modality with its data open.
        config: of the run.
        folder: run folder, exists.
        peers: this process among its peers.
        console: for the display; None is quiet.
    """

    def __init__(
        self,
        adapter: Adapter,
        config: RunConfig,
        folder: Path,
        peers: Processes,
        console: Console | None = None,
    ) -> None:
        check(config.train, peers)
        self.adapter, self.config, self.folder = adapter, config, folder
        self.peers, self.console = peers, console if peers.main else None
        self.total, self.warmup = num_steps(config.train, len(adapter))
        self.masker = build_masker(config, adapter.geometry)
        self.jepa = build_jepa(config, adapter, gather).to(peers.device)
        if config.train.compile:
            compile_blocks(self.jepa)
        adapter.tokenizer.to(peers.device)
        self.monitor = Monitor(*adapter.monitor())
        # The look at the untrained encoder: a sharded one could not be run on its own before the
        # first step.
        self.monitor.look(self.jepa.teacher, None)
        self.model = wrap(self.jepa, peers, config.train.strategy)
        self.optimizer = optimiser(self.jepa, config.train.betas, config.train.eps)
        self.parameters = [p for p in self.jepa.parameters() if p.requires_grad]
        self.step = 0
        self.verdict = ""
        self._void = torch.zeros((), device=peers.device)

    def resume(self, step: int | None = None) -> None:
        """Take up the last checkpoint (or that of `step`); forget what was logged and saved later.

        Raises:
            checkpoint.CheckpointError: none, damaged, or of other training data.
        """
        self.step, tensors, state = checkpoint.load(self.folder, step)
        if (before := state.get("data", self._data)) != self._data:
            raise checkpoint.CheckpointError(
                f"{self.folder} was begun on other training data ({before}; now {self._data}), so "
                f"it cannot go on exactly: give the same data, or start in another --out folder"
            )
        load_model(self.jepa, tensors, self.folder)
        load_optimiser(self.jepa, self.optimizer, state["optimizer"])
        self.monitor.load_state_dict(state["monitor"])
        self.verdict = state["verdict"]
        random = state["random"]
        # A copy: torch reads the state of a view at a wrong address.
        torch.set_rng_state(random[min(self.peers.rank, len(random) - 1)].clone())
        if self.peers.main:
            cut(self.folder, self.step)
            checkpoint.forget_after(self.folder, self.step)
        self.peers.barrier()

    @cached_property
    def _data(self) -> str:
        """What tells these training data from others."""
        count = f"{len(self.adapter)} samples"
        return f"{count}, {mark}" if (mark := getattr(self.adapter, "mark", "")) else count

    def save(self) -> None:
        """Write a checkpoint; every process takes part."""
        random = gather_numbers(torch.get_rng_state().to(self.peers.device)).cpu()
        model = model_state(self.jepa)
        state = {
            "optimizer": optimiser_state(self.jepa, self.optimizer),
            "monitor": self.monitor.state_dict(),
            "verdict": self.verdict,
            "random": random,
            "data": self._data,
        }
        if self.peers.main:
            checkpoint.save(self.folder, self.step, model, state)
        self.peers.barrier()

    def run(self, log: Log | None) -> Trained:
        """Train to the end.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, with a checkpoint on disk.
            NonFiniteLoss: at the first synchronisation after it happened.
        """
        train = self.config.train
        log_every = min(train.log_every, self.total)
        look_every = train.monitor_every or max(self.total // 20, 1)
        save_every = train.checkpoint_every or max(self.total // 10, 1)
        blocks = getattr(self.adapter, "blocks", None)
        schedule = Schedule(len(self.adapter), train.batch_size, train.seed, blocks)
        micro = plan(train, schedule, self.peers, self.step + 1, self.total)
        feed = self.adapter.feed(micro, self.masker, self.peers.device)
        speed = Speed(train.batch_size, self.peers)
        collapsed = False
        self.model.train()
        with stop_signals() as signals, Display(self.total, self.step, self.console) as display:
            while self.step < self.total and not collapsed:
                step = self.step + 1
                output, norm = self._optimise(step, feed, speed)
                self.step = step
                display.advance(step)
                last = step == self.total
                look = step % look_every == 0 or last
                if step % log_every == 0 or look:
                    record = self._record(step, output, norm, speed, schedule)
                    if look:
                        with speed.paused():
                            record |= self.monitor.look(self.jepa.teacher, output)
                        self.verdict = record["verdict"]
                        collapsed = train.stop_on_collapse and record["state"] == "collapsed"
                        if self.monitor.improved(record):
                            self._keep_best(record)
                    if log is not None:
                        log.write(record)
                    display.record(record)
                stop = self._agree(bool(signals), step % log_every == 0)
                if step % save_every == 0 or last or stop or collapsed:
                    with speed.paused():
                        self.save()
                if stop:
                    raise Interrupted(
                        f"stopped at step {step} of {self.total}; a checkpoint is saved: go on "
                        f"with --out {self.folder} --resume"
                    )
        return Trained(
            self.jepa, self.step, speed.overall(), self.verdict, collapsed, self.monitor.start
        )

    def _optimise(self, step: int, feed: Iterator[Any], speed: Speed) -> tuple[JEPAOutput, Tensor]:
        """One optimiser step; nothing is read from the device."""
        train, device = self.config.train, self.peers.device
        now = rates(train, step, self.total, self.warmup)
        apply_rates(self.optimizer, now)
        self.jepa.schedule(step, self.total)
        dtype = precision(train, device)
        numbers: list[Tensor] = []
        for part in range(train.accumulate):
            with speed.waiting():
                batch, masks = next(feed)
            hold = part + 1 < train.accumulate and hasattr(self.model, "no_sync")
            with self.model.no_sync() if hold else contextlib.nullcontext():  # type: ignore[operator]
                with (
                    speed.counting(),
                    torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
                ):
                    output: JEPAOutput = self.model(batch, masks)
                assert output.loss is not None
                loss = output.loss / train.accumulate
                with speed.counting():
                    # An infinite loss can have finite gradients (smooth-L1): make those NaN too, on
                    # every process, so that the step is void.
                    (loss * torch.where(loss.isfinite(), 1.0, math.nan)).backward()
                numbers.append(torch.stack([output.loss.detach(), *output.terms.values()]))
        mean = torch.stack(numbers).mean(0)  # over the micro-batches
        output.loss, output.terms = mean[0], dict(zip(output.terms, mean[1:], strict=True))
        norm = gradient_norm(self.parameters)
        void = guarded_step(self.optimizer, norm, train.clip)
        self.optimizer.zero_grad(set_to_none=True)
        self._void = torch.where((self._void == 0) & (void > 0), step, self._void)
        rate = 1 - now.momentum
        if device.type == "cpu":  # reading a number costs nothing here
            self.jepa.update_teacher(0.0 if bool(void) else rate)
        else:
            self.jepa.update_teacher(rate * (1 - void))
        speed.step()
        return output, norm

    def _record(
        self, step: int, output: JEPAOutput, norm: Tensor, speed: Speed, schedule: Schedule
    ) -> dict[str, Any]:
        """The one synchronisation: numbers of this step, averaged over processes.

        Raises:
            NonFiniteLoss: naming step and sample ids.
        """
        assert output.loss is not None
        names = [f"term/{name}" for name in output.terms]
        numbers = [output.loss.detach(), *output.terms.values(), norm, self._void]
        stacked = torch.stack([n.double() for n in numbers])
        loss, *terms, size, void = gather_numbers(stacked).mean(0).tolist()
        if void:
            self._complain(int(void), schedule)
        now = rates(self.config.train, step, self.total, self.warmup)
        return {
            "step": step,
            "loss": loss,
            **dict(zip(names, terms, strict=True)),
            "gradient_norm": size,
            "lr": now.lr,
            "weight_decay": now.weight_decay,
            "momentum": now.momentum,
            **speed.read(),
        }

    def _complain(self, step: int, schedule: Schedule) -> None:
        train = self.config.train
        ids: list[int] = []
        for batch, _ in self.adapter.feed(
            plan(train, schedule, self.peers, step, step), self.masker, self.peers.device
        ):
            broken = ~torch.isfinite(batch.context.values).flatten(1).all(1)
            assert batch.ids is not None
            ids += batch.ids[broken.cpu()].tolist()
        whose = "samples with non-finite input" if ids else "samples of the step"
        listed = ids or schedule.rows(step).tolist()
        raise NonFiniteLoss(
            f"loss or gradient of step {step} is not finite ({whose}: {listed[:20]}"
            f"{', ...' if len(listed) > 20 else ''}); the step changed nothing. Look at these "
            f"samples and go on from the last checkpoint with --resume, or start again with a "
            f"lower train.lr or with train.clip"
        )

    def _agree(self, mine: bool, together: bool) -> bool:
        """Whether to stop now: at once alone, at a common step with peers."""
        if self.peers.world == 1:
            return mine
        if not together:
            return False
        flag = torch.tensor([float(mine)], device=self.peers.device)
        return bool(gather_numbers(flag).max() > 0)

    def _keep_best(self, record: dict[str, Any]) -> None:
        weights = model_state(self.jepa.teacher)
        if not self.peers.main:
            return
        note = f"chosen with labels: best online kNN, {record['probe/knn']:.4f} at {record['step']}"
        save_encoder(
            self.folder / "encoder_best.safetensors",
            weights,
            model_state(self.adapter.tokenizer),
            self.adapter.config,
            note,
        )


def compile_blocks(jepa: JEPA) -> None:
    """Compile every block on its own, for any number of tokens."""
    for module in (jepa.encoder, jepa.teacher, jepa.predictor):
        for block in [] if module is None else module.blocks:  # type: ignore[union-attr]
            block.compile(dynamic=True)


def untrained(config: RunConfig, adapter: Adapter, seed: int) -> nn.Module:
    """The same encoder before any step, from its own seed: the control."""
    with fixed_random(1_000 + seed):
        return build_encoder(config, adapter.geometry, adapter.embedding())
