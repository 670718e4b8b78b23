"""Does a register token keep tables from collapsing, as T-JEPA says?

    python benchmarks/tabular_reg_study.py --steps 3000 --seeds 2
    python benchmarks/tabular_reg_study.py --paper --norms post --no-vicreg --steps 1000

0, 1 and 4 tokens x pre-norm and post-norm blocks x without and with VICReg, on two tables; collapse
statistics over time, and a linear head on the validation rows at the end. `--paper`: network, masks
and optimiser of the recipe `tabular_paper` (16 blocks of width 64) instead of the default's.
Finished runs are kept in the work folder, so an interrupted study goes on; other tables in the file
of `--out` stay there.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import about
from tabular_arm import TABLES, Data
from tabular_summary import score_cell

from jepa_modalities.adapters.tabular.adapter import TabularAdapter
from jepa_modalities.adapters.tabular.tokenizer import pack
from jepa_modalities.api import recipe
from jepa_modalities.core.jepa import JEPA
from jepa_modalities.estimator.pretraining import configuration, in_memory
from jepa_modalities.eval.features import extract
from jepa_modalities.eval.head.linear import linear
from jepa_modalities.eval.head.task import Task
from jepa_modalities.train.distributed import Processes, pick_device
from jepa_modalities.train.engine import Trainer
from jepa_modalities.train.log import Log, read

SHOWN = ("rankme", "effective_rank", "std", "spread", "cosine")


def case_name(tokens: int, norm: str, vicreg: bool) -> str:
    """Of a run."""
    return f"{norm}norm_reg{tokens}" + ("_vicreg" if vicreg else "")


def settings(tokens: int, norm: str, vicreg: bool, own: argparse.Namespace) -> dict[str, Any]:
    """Dotted settings of one case."""
    found: dict[str, Any] = {
        "objective.detection": 0.0,  # it would keep the encoder from collapsing by itself
        "tokens.numeric": "linear",  # as in the paper
        "encoder.num_prefix": tokens,
        "encoder.norm": norm,
        "train.steps": own.steps,
        "train.device": own.device,
    }
    if vicreg:  # on the context latents, without a projector, as in the experiments
        found |= {
            "regulariser.kind": "vicreg",
            "regulariser.source": "context",
            "regulariser.widths": (),
            "regulariser.coefficients": (0.0, 1.0, 0.04),
            "regulariser.weight": own.weight,
        }
    return found


def as_published(config: Any) -> Any:
    """The same case with network, masks, targets and optimiser of the recipe `tabular_paper`."""
    paper, own = recipe("tabular_paper"), config.train
    kept = ("steps", "seed", "device", "log_every", "monitor_every", "checkpoint_every")
    return replace(
        config,
        data=replace(config.data, numeric=paper.data.numeric),
        encoder=replace(
            paper.encoder, num_prefix=config.encoder.num_prefix, norm=config.encoder.norm
        ),
        predictor=paper.predictor,
        mask=paper.mask,
        target=paper.target,
        train=replace(paper.train, **{name: getattr(own, name) for name in kept}),
    )


def run(data: Data, case: tuple[int, str, bool], seed: int, own: argparse.Namespace) -> Any:
    """One run: curve of collapse statistics, verdict, linear head on validation rows."""
    folder = Path(own.work) / data.name / f"{case_name(*case)}_{seed}"
    place = folder / "result.json"
    if place.exists():
        return json.loads(place.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration({**settings(*case, own), "train.seed": seed}, {"train.log_every": 10})
    if own.paper:
        config = as_published(config)
    frame = data.frame(0).reset_index(drop=True)
    adapter = TabularAdapter(config, None, in_memory(frame, data.table.categorical))
    trainer = Trainer(
        adapter, adapter.config, folder, Processes(0, 1, pick_device(own.device)), None
    )
    (folder / "log.jsonl").unlink(missing_ok=True)  # of an interrupted run
    log = Log(folder)
    try:
        trained = trainer.run(log)
    finally:
        log.close()
    curve = [
        {"step": r["step"], **{n: r[f"collapse/{n}"] for n in SHOWN}}
        for r in read(folder)
        if "collapse/rankme" in r
    ]
    start = {"step": 0, **{n: trained.start[n] for n in SHOWN}}
    result = {
        "curve": [start, *curve],
        "verdict": trained.verdict,
        "collapsed": "collapsed" in trained.verdict,
        "linear": probed(data, adapter, trained.jepa),
    }
    place.write_text(json.dumps(result, indent=1))
    return result


def probed(data: Data, adapter: Any, jepa: JEPA) -> float:
    """Accuracy or RMSE of a linear head on all tokens, on the validation rows."""
    parts = [
        extract(jepa.teacher, adapter.tokenizer, packed(adapter, data.frame(n)), ["all_tokens"])
        for n in (0, 1)
    ]
    x, v = (part["all_tokens"] for part in parts)
    found = linear(Task(x, data.y, v, data.val_y, v, data.regression))
    return float(score_cell(data, found.val, val=True).mean())


def packed(adapter: Any, frame: Any) -> torch.Tensor:
    """Preprocessed rows, (rows, features, 2)."""
    return pack(adapter.preprocess.transform(frame)).to(adapter.tokenizer.about.device)


def earlier(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Tables that a run with the same settings left in the file of `--out`.

    Raises:
        SystemExit: it has other settings.
    """
    if not out.exists():
        return {}
    old = json.loads(out.read_text())
    if {name: old.get(name) for name in asked} != asked:
        raise SystemExit(f"{out} holds a study with other settings than {asked}: another --out")
    found: dict[str, Any] = old["results"]
    return found


def table(results: dict[str, Any], tables: Sequence[str]) -> str:
    """The study as Markdown: first and last statistics, means over seeds."""
    lines = ["# Register tokens on tables", ""]
    for name in tables:
        lines += [
            f"## {name}",
            "",
            "| case | RankMe start -> end | std | spread | cosine | linear |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for case, runs in results[name].items():
            ends = []
            for key in ("rankme", "std", "spread", "cosine"):
                first = np.mean([r["curve"][0][key] for r in runs])
                last = np.mean([r["curve"][-1][key] for r in runs])
                ends.append(f"{first:.3g} -> {last:.3g}")
            values = [r["linear"] for r in runs]
            bad = sum(r["collapsed"] for r in runs)
            note = f", {bad} of {len(runs)} collapsed" if bad else ""
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            lines.append(
                f"| {case}{note} | " + " | ".join(ends) + f" | {np.mean(values):.4f}{spread} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing and write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tables", nargs="+", default=["california", "jannis_part"], choices=TABLES
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", nargs="+", type=int, default=[0, 1, 4])
    parser.add_argument("--norms", nargs="+", default=["pre", "post"], choices=("pre", "post"))
    parser.add_argument("--weight", type=float, default=0.1, help="of VICReg")
    parser.add_argument("--no-vicreg", action="store_true", help="only without VICReg")
    parser.add_argument("--paper", action="store_true", help="the recipe tabular_paper's network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="rows per split, for quick checks")
    parser.add_argument("--work", default="runs/tabular_reg_study")
    parser.add_argument("--out", type=Path, help="name of the .json and .md files")
    own = parser.parse_args(argv)
    torch.set_num_threads(own.threads)
    out = Path(f"{own.out or Path(own.work) / 'summary'}.json")
    names = ("steps", "seeds", "weight", "device", "limit", "paper")
    asked = {name: getattr(own, name) for name in names}
    results = earlier(out, asked)
    for name in own.tables:
        data = Data(name, "val", own.limit)
        results[name] = {}
        for case in itertools.product(own.tokens, own.norms, (False, True)[: 2 - own.no_vicreg]):
            runs = [run(data, case, seed, own) for seed in range(own.seeds)]
            results[name][case_name(*case)] = runs
            last = runs[-1]
            print(f"{name} {case_name(*case)}: {last['linear']:.4f}; {last['verdict']}", flush=True)
    out.write_text(json.dumps(about(own.threads) | asked | {"results": results}, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(results, list(results)) + "\n")


if __name__ == "__main__":
    main()
