"""One encoder over many tables: do shared blocks make better features than blocks of one table?

    python benchmarks/tabular_many.py --tables california bank adult --work runs/many
    python benchmarks/tabular_suite.py --score val --seeds 1 --heads linear --work runs/many \\
        --tables california --variant jepa --variant many

Every table keeps tokens and positions of its own; the blocks of encoder, teacher and predictor are
common to all. The tables take turns, in another order each round, so each gets as many steps as an
encoder of its own would and the common blocks as many times more. Leaves encoder files where
`tabular_suite.py` looks for a variant called `many`; for a table without such a file the suite
would train an ordinary encoder under that name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tabular_arm import TABLES, Data
from torch import nn

from jepa_modalities.adapters.base import build_jepa, build_masker
from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.core.draw import Schedule
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.estimator.pretraining import configuration, in_memory
from jepa_modalities.export.encoder import save_encoder
from jepa_modalities.settings import changed
from jepa_modalities.train.distributed import Processes, pick_device
from jepa_modalities.train.monitor import Monitor
from jepa_modalities.train.optim import apply_rates, gradient_norm, guarded_step, optimiser, rates
from jepa_modalities.train.plan import num_steps, plan

COMMON = {  # what does not know which table it works for
    "encoder": ("blocks", "norm", "prefix"),
    "teacher": ("blocks", "norm", "prefix"),
    "predictor": ("embed", "blocks", "norm", "head", "mask_token"),
}


def share(first: JEPA, other: JEPA) -> None:
    """Give `other` the common parts of `first`."""
    for network, parts in COMMON.items():
        for part in parts:
            setattr(getattr(other, network), part, getattr(getattr(first, network), part))


class Turn:
    """What one table brings to the common encoder.

    Args:
        name: of the table.
        first: the table whose common parts this one uses; None for the first.
        own: the command line.
    """

    def __init__(self, name: str, first: Turn | None, own: argparse.Namespace) -> None:
        self.name = name
        data = Data(name, "val", own.limit)
        config = configuration(
            {"train.steps": own.steps, "train.seed": own.seed, "train.device": own.device}, None
        )
        frame = data.frame(0).reset_index(drop=True)
        self.adapter = TabularAdapter(config, None, in_memory(frame, data.table.categorical))
        self.config = self.adapter.config
        device = pick_device(own.device)
        self.adapter.tokenizer.to(device)
        self.masker = build_masker(self.config, self.adapter.geometry)
        self.jepa = build_jepa(self.config, self.adapter).to(device).train()
        if first is not None:
            share(first.jepa, self.jepa)
        self.monitor = Monitor(*self.adapter.monitor())
        self.monitor.look(self.jepa.teacher, None)
        schedule = Schedule(len(self.adapter), self.config.train.batch_size, own.seed, None)
        steps = plan(self.config.train, schedule, Processes(0, 1, device), 1, own.steps)
        self.feed = self.adapter.feed(steps, self.masker, device)

    def loss(self) -> torch.Tensor:
        """Of the table's next batch."""
        output = self.jepa(*next(self.feed))
        assert output.loss is not None
        loss: torch.Tensor = output.loss
        return loss

    def save(self, place: Path) -> str:
        """Encoder file and facts, as `tabular_suite.py` keeps them; the verdict."""
        found = self.monitor.look(self.jepa.teacher, None)
        facts = {k.removeprefix("collapse/"): v for k, v in found.items() if "collapse/" in k}
        place.parent.mkdir(parents=True, exist_ok=True)
        config = changed(self.config, {"evaluate.pooling": "all_tokens"})
        weights, tokenizer = (
            {name: value.cpu() for name, value in part.state_dict().items()}
            for part in (self.jepa.teacher, self.adapter.tokenizer)
        )
        save_encoder(place.with_suffix(".safetensors"), weights, tokenizer, config, "many tables")
        about = {"verdict": found["verdict"], "steps": self.config.train.steps, **facts}
        place.with_suffix(".json").write_text(json.dumps(about, default=str))
        return str(found["verdict"])


def pretrain(own: argparse.Namespace) -> list[Turn]:
    """All tables, in turn."""
    turns: list[Turn] = []
    for name in own.tables:
        turns.append(Turn(name, turns[0] if turns else None, own))
    train = turns[0].config.train
    networks = nn.ModuleList(turn.jepa for turn in turns)
    adam = optimiser(networks, train.betas, train.eps)
    parameters = [p for p in networks.parameters() if p.requires_grad]
    total, warmup = num_steps(train, train.batch_size)
    order = torch.Generator().manual_seed(own.seed)
    for step in range(1, total + 1):
        now = rates(train, step, total, warmup)
        apply_rates(adam, now)
        for at in torch.randperm(len(turns), generator=order).tolist():
            turn = turns[at]
            turn.jepa.schedule(step, total)
            turn.loss().backward()
            void = guarded_step(adam, gradient_norm(parameters), train.clip)
            adam.zero_grad(set_to_none=True)
            turn.jepa.update_teacher(0.0 if bool(void) else 1 - now.momentum)
        if step % 1000 == 0:
            print(f"step {step} of {total}", flush=True)
    return turns


def main(argv: Sequence[str] | None = None) -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", required=True, choices=TABLES)
    parser.add_argument("--steps", type=int, default=10_000, help="of each table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--work", type=Path, default=Path("runs/tabular_many"))
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    for turn in pretrain(own):
        print(turn.name, turn.save(own.work / turn.name / f"many_{own.seed}"), flush=True)


if __name__ == "__main__":
    main()
