"""`jm estimate`: what a recipe costs before it is started."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_modalities import api
from jepa_modalities.adapters.outline import Outline
from jepa_modalities.cli.config import merge
from jepa_modalities.settings import changed
from jepa_modalities.train.estimate import Estimate, Work, count, estimate, outline_of, steps_of
from jepa_modalities.train.hardware import KNOWN, Hardware, hardware


@dataclass(frozen=True)
class Documented:
    """The data that recipes were written for, where a run is counted in epochs of them.

    Attributes:
        recipes: what their names begin with.
        samples: for training.
        about: where the number comes from.
        settings: what else is known of them.
    """

    recipes: str
    samples: int
    about: str
    settings: dict[str, Any] = field(default_factory=dict)


DOCUMENTED = (
    Documented("image_digits", 1_080, "digits: 1,200 less a tenth held out"),
    Documented("image_ijepa_imagenette", 9_469, "Imagenette v2"),
    Documented("image_ijepa_imagenet", 1_281_167, "ImageNet-1k"),
    Documented("image_cjepa_imagenet", 1_281_167, "ImageNet-1k"),
    Documented("sar_jepa_base", 94_776, "the SAR-JEPA paper's four sets"),
    Documented("ecg_ptbxl_sub100", 1_442, "folds 1 to 8 of the 1,819 records"),
    Documented("tabular_jannis", 10_718, "the stored part of Jannis", {"shape.numeric": 54}),
    Documented("tabular_paper", 10_718, "the stored part of Jannis", {"shape.numeric": 54}),
    Documented("tabular_higgs", 12_550, "the stored part of Higgs-small", {"shape.numeric": 28}),
)


def documented(recipe: str) -> Documented | None:
    """What is known of a recipe's data."""
    return next((d for d in DOCUMENTED if recipe.startswith(d.recipes)), None)


def run(args: Sequence[str]) -> int:
    """Count a recipe and print its table or JSON."""
    parser = argparse.ArgumentParser(prog="jm estimate", add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--hardware", nargs="+", default=["cpu", "h100x1"], help=KNOWN)
    parser.add_argument("--samples", type=int, help="training samples, for runs given in epochs")
    parser.add_argument("--price", type=float, help="$ per device and hour, instead of the table's")
    parser.add_argument("--mfu", type=float, help="share of the peak, instead of the table's")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    own, rest = parser.parse_known_args(args)
    if own.recipe is None or own.recipe.startswith("-"):
        parser.print_help()
        print("\nevery setting is a flag: jm estimate RECIPE --help")
        return 0 if {"-h", "--help"} & set(args) else 2
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())
    config = api.recipe(own.recipe)
    config = merge(config, rest, f"jm estimate {own.recipe}")
    places = [_place(name, config, own.price, own.mfu) for name in own.hardware]
    known = documented(config.recipe)
    completed, notes = _completed(config, known)
    outline = outline_of(completed)
    outline.notes += notes
    samples, origin = _samples(own.samples, outline, known)
    steps = steps_of(config, samples)
    work = count(outline)
    found = [estimate(work, outline.config, steps, place) for place in places]
    report = {
        "recipe": config.recipe,
        "modality": config.modality,
        "samples": samples,
        "samples_from": origin,
        "steps": steps,
        "batch_size": config.train.batch_size,
        "flops_per_step": work.flops,
        "flops_per_run": work.flops * steps,
        "work": asdict(work),
        "notes": outline.notes,
        "hardware": [asdict(e) | {"fits": e.fits} for e in found],
    }
    if own.json:
        print(json.dumps(report, indent=1))
    else:
        show(Console(), report, work, found)
    return 0


def _place(name: str, config: Any, price: float | None, mfu: float | None) -> Hardware:
    place = hardware(name, config.train.threads)
    if price is not None:
        place = replace(place, price=price)
    if mfu is not None:
        if not 0 < mfu <= 1:
            raise ValueError(f"--mfu {mfu}: give a share above 0, at most 1")
        place = replace(place, mfu=mfu, source="--mfu", balance=0.0)
    return place


def _completed(config: Any, known: Documented | None) -> tuple[Any, list[str]]:
    """The documented columns of a table that is not here, unless flags tell others; and a note."""
    if known is None or not known.settings or Path(config.data.path).is_file():
        return config, []
    if config.shape != type(config.shape)():
        return config, []
    return changed(config, known.settings), [f"columns as documented: {known.about}"]


def _samples(
    flag: int | None, outline: Outline, known: Documented | None
) -> tuple[int | None, str]:
    """Training samples and where the number comes from."""
    if flag is not None:
        return flag, "--samples"
    if outline.samples is not None:
        return outline.samples, "the data"
    if known is not None:
        limit = getattr(outline.config.data, "limit", None)
        return min(known.samples, limit or known.samples), known.about
    return None, "not known: the data are not opened; --samples N"


def show(console: Console, report: dict[str, Any], work: Work, found: Sequence[Estimate]) -> None:
    """The short table: the step, then each hardware."""
    step = Table(box=None, show_header=False)
    batch, steps = report["batch_size"], report["steps"]
    step.add_row("parameters", f"{_si(work.trained)} trained, {_si(work.teacher)} teacher")
    if work.context is not None:
        step.add_row("tokens", f"{work.context} visible, {work.targets} predicted per sample")
    shares = ", ".join(
        f"{name} {getattr(work, name) / work.flops:.0%}"
        for name in ("target", "encoder", "predictor", "terms", "backward")
        if getattr(work, name)
    )
    step.add_row("step", f"{_si(work.flops)}FLOP for {batch} samples: {shares}")
    step.add_row("run", f"{_si(report['flops_per_run'])}FLOP in {steps:,} steps")
    if report["samples"] is not None:
        step.add_row("samples", f"{report['samples']:,} ({report['samples_from']})")
    console.print(step)
    table = Table("hardware", "peak used", "a step", "hours", "cost", "GiB a device", box=None)
    for e in found:
        table.add_row(
            e.hardware,
            f"{e.mfu:.0%} of {_si(e.peak).replace(' ', '')} {e.precision}",
            _seconds(e.seconds) + "*" * (e.bound == "launches"),
            f"{e.hours:,.1f}" if e.hours >= 1 else f"{e.hours:.2g}",
            f"${e.cost:,.0f}" if e.cost >= 10 else f"${e.cost:.2f}",
            f"{sum(e.memory.values()):,.1f} of {e.available:.0f}" + " !" * (not e.fits),
        )
    console.print(table)
    for e in found:
        console.print(f"{e.hardware}: assumed: ${e.price:g} per device and hour; {e.source}")
    if any(e.bound == "launches" for e in found):
        console.print("*: starting the operations takes longer than their arithmetic")
    if not all(e.fits for e in found):
        console.print(
            "!: does not fit: take more devices, raise --train.accumulate (not with a "
            "regulariser), or (for the weights) --train.strategy fsdp"
        )
    for note in report["notes"]:
        console.print(f"note: {note}")
    console.print("Not in it: reading data, checkpoints, monitor, probes.")


def _si(number: float) -> str:
    """Three digits and a prefix."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number / 1e3:.3g} k"


def _seconds(number: float) -> str:
    return f"{number:.3g} s" if number >= 1 else f"{1e3 * number:.3g} ms"
