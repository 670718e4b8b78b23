"""The public Python names: pretrain, load, evaluate, recipes."""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from jepa_modalities.config import RunConfig
from jepa_modalities.core.registry import adapters
from jepa_modalities.core.registry import recipes as _recipes
from jepa_modalities.core.threads import threads
from jepa_modalities.eval.features import POOLINGS, unknown_poolings
from jepa_modalities.export.encoder import (
    PretrainedEncoder,
    load_encoder,
    parse_config,
    save_encoder,
)
from jepa_modalities.settings import changed, differences
from jepa_modalities.train import checkpoint
from jepa_modalities.train.distributed import (
    Processes,
    may_restart,
    pick_device,
    processes,
)
from jepa_modalities.train.engine import Trained, Trainer, untrained
from jepa_modalities.train.environment import write_environment
from jepa_modalities.train.lock import locked, taken_up
from jepa_modalities.train.log import Log, cut, read
from jepa_modalities.train.state import model_state

__all__ = ["PretrainedEncoder", "Run", "evaluate", "load", "pretrain", "recipe", "recipes"]

# Free to differ when a run goes on: they leave masks, order and method alone. Another device or
# compiled blocks change the rounding.
FREE = (
    "train.device",
    "train.threads",
    "train.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.tensorboard",
    "train.compile",
    "evaluate.",
)


@dataclass(frozen=True)
class Run:
    """A finished run folder.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def config(self) -> Any:
        """The run's configuration."""
        return read_config(self.path / "config.json")

    @property
    def metrics(self) -> dict[str, float]:
        """Flat results, `<arm>/<probe>[@<pooling>]/<metric>`.

        Raises:
            FileNotFoundError: the run has not come to its end.
            ValueError: the file is damaged.
        """
        if not (self.path / "metrics.json").is_file():
            raise FileNotFoundError(
                f"no metrics.json in {self.path}: no run folder, or its run has not come to an "
                f"end; go on with --out {self.path} --resume"
            )
        place = self.path / "metrics.json"
        try:
            content = json.loads(place.read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in content.items()}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{place} holds no results ({error}), expected a JSON object of numbers; run `jm "
                f"evaluate {self.path}` again"
            ) from error

    @property
    def encoder(self) -> PretrainedEncoder:
        """The teacher with its preprocessing."""
        return load_encoder(self.path / "encoder.safetensors")


def _load_recipes() -> None:
    """Import the recipe files: inside the installed package, or beside it in a clone."""
    here = Path(__file__).parent
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parent / "recipes"
    for path in sorted(folder.glob("*.py")):
        name = f"jepa_modalities_recipes_{path.stem}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def recipes() -> dict[str, str]:
    """Names of all recipes with the first line of their description."""
    _load_recipes()
    return {name: (_recipes[name].__doc__ or "").strip().split("\n")[0] for name in _recipes}


def recipe(name: str) -> Any:
    """The configuration of a named recipe, or of a config.json.

    Raises:
        KeyError: unknown name; lists what there is.
    """
    if name.endswith(".json"):
        return read_config(Path(name))
    _load_recipes()
    config = _recipes[name]()
    return replace(config, recipe=name)


def read_config(path: Path) -> Any:
    """The configuration in a config.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or unknown settings.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: is this a run folder?")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    return parse_config(text, str(path))


def begun(folder: Path, config: Any) -> Any:
    """The configuration that a folder's run was begun with, to go on with it.

    Args:
        folder: of the run.
        config: of the recipe that is asked for.

    Raises:
        FileNotFoundError: no run in the folder.
        ValueError: the folder's run is of another recipe.
    """
    old = read_config(folder / "config.json")
    if old.recipe != config.recipe:
        raise ValueError(
            f"{folder} was begun with the recipe {old.recipe!r}, not {config.recipe!r}; name that "
            f"one, or start in another --out folder"
        )
    return old


def load(path: str | Path, device: str = "cpu") -> PretrainedEncoder:
    """An encoder from a run folder or an encoder file; nothing in it is executed.

    Args:
        path: run folder or .safetensors file.
        device: where to: "cpu", "cuda", "auto"; where it was trained does not matter.

    Raises:
        ValueError: CUDA is asked for and absent, or a damaged file.
        FileNotFoundError: no encoder there.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "encoder.safetensors"
    return load_encoder(file, pick_device(device, "device"))


def pretrain(
    recipe_or_config: str | RunConfig,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    resume: bool = False,
    resume_step: int | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **train: Any,
) -> Run:
    """Pretrain, probe beside controls, write the run folder.

    Args:
        recipe_or_config: name of a recipe, path of a config.json, or a configuration.
        out: run folder; `runs/<recipe>-<time>` if not given.
        seed: fixes everything.
        resume: go on from the folder's last checkpoint, with the settings it was begun with.
        resume_step: go on from the checkpoint of this step.
        settings: dotted names, e.g. `{"data.path": "photos", "encoder.dim": 128}`.
        quiet: no display.
        **train: fields of the train section, e.g. `epochs=50`.

    Returns:
        The run.

    Raises:
        ValueError: settings or data that cannot work, before anything is trained.
        CheckpointError: nothing to resume, or a damaged checkpoint.

    Under `torchrun --max-restarts N` a restarted launch goes on from its last checkpoint by itself.
    """
    if may_restart() and out is None:
        raise ValueError(
            "torchrun --max-restarts needs --out DIR: a restarted launch goes on in that run folder"
        )
    resuming = resume or resume_step is not None
    if resuming and out is None:
        raise ValueError("resume needs out: the run folder that goes on")
    config = recipe(recipe_or_config) if isinstance(recipe_or_config, str) else recipe_or_config
    if resuming and isinstance(recipe_or_config, str):
        config = begun(Path(str(out)), config)
    wanted = {**(settings or {}), **{f"train.{k}": v for k, v in train.items()}}
    config = changed(config, wanted)
    if seed is not None:
        config = changed(config, {"train.seed": seed})
    if unknown := unknown_poolings([config.evaluate.pooling]):
        raise ValueError(f"evaluate.pooling: {unknown[0]!r} is not one of {', '.join(POOLINGS)}")
    name = config.recipe or config.modality
    console = None if quiet else Console()
    with threads(config.train.threads), processes(config.train.device) as peers:
        folder = Path(peers.agree(str(out if out is not None else _fresh_folder(name))))
        if taken_up(folder) and checkpoint.steps(folder):
            resuming, resume_step = True, None
        if resuming:
            compare(folder, config)
        with locked(folder, peers, not resuming):
            return _pretrain(config, folder, resuming, resume_step, peers, console)


def _pretrain(
    config: Any,
    folder: Path,
    resuming: bool,
    resume_step: int | None,
    peers: Processes,
    console: Console | None,
) -> Run:
    adapter = adapters[config.modality](config, folder)
    if console is not None and peers.main:
        for line in getattr(adapter, "about", []):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    trainer = Trainer(adapter, config, folder, peers, console)
    if resuming:
        trainer.resume(resume_step)
    elif peers.main:
        cut(folder, 0)
        write_environment(folder, peers)
        checkpoint.write_json(folder / "config.json", asdict(config))
    log = Log(folder, config.train.tensorboard) if peers.main else None
    try:
        trained = trainer.run(log)
    finally:
        if log is not None:
            log.close()
    if trained.collapsed and console is not None:
        console.print(f"ended at step {trained.step} of {trainer.total}: {trained.verdict}")
    teacher, student = model_state(trained.jepa.teacher), model_state(trained.jepa.encoder)
    if peers.main:
        tokenizer = model_state(adapter.tokenizer)
        known = adapter.config  # the run's, completed by what the data say
        save_encoder(folder / "encoder.safetensors", teacher, tokenizer, known)
        save_encoder(folder / "student.safetensors", student, tokenizer, known, "student")
        facts = {
            "speed/samples_per_second": trained.samples_per_second or _logged_speed(folder),
            "train/steps": float(trained.step),
            "train/samples_seen": float(trained.step * config.train.batch_size),
        }
        finish(Run(folder), adapter, trained, facts, console)
    peers.barrier()
    return Run(folder)


def finish(
    run: Run,
    adapter: Any,
    trained: Trained | None,
    facts: dict[str, float],
    console: Console | None,
) -> None:
    """Probes, metrics.json and report.html of a trained run."""
    from jepa_modalities.eval.report import write_report  # draws: slow to import

    config = adapter.config
    place = pick_device(config.train.device)
    adapter.tokenizer.to(place)
    encoders: dict[str, list[torch.nn.Module]] = {
        "encoder": [load(run.path).encoder.to(place)],
        "student": [load_encoder(run.path / "student.safetensors").encoder.to(place)],
        "untrained": [
            untrained(config, adapter, seed).to(place) for seed in range(config.evaluate.untrained)
        ],
    }
    metrics = dict(facts)
    log = [r for r in read(run.path) if "collapse/rankme" in r]
    if log:
        metrics |= {k: v for k, v in log[-1].items() if k.startswith(("collapse/", "probe/"))}
        metrics |= {f"{k}_first": v for k, v in log[0].items() if k.startswith("collapse/")}
    if trained is not None:
        metrics |= {f"collapse/{k}_start": v for k, v in trained.start.items()}
    if config.evaluate.enabled:
        if console is not None and getattr(adapter, "probed", True):
            console.print("probing the encoder beside its controls ...")
        try:
            metrics |= adapter.evaluate(encoders, run.path)
        except Exception as error:
            error.add_note(
                f"what was trained is in {run.path}; probe it again with: jm evaluate {run.path}"
            )
            raise
    checkpoint.write_json(run.path / "metrics.json", metrics)
    write_report(run.path, adapter.pictures(encoders))


def _logged_speed(folder: Path) -> float:
    """Samples per second as the log tells them: of a run that was resumed at its last step."""
    rates = [record["samples_per_second"] for record in read(folder)]
    return sum(rates) / len(rates) if rates else 0.0


def evaluate(
    path: str | Path, settings: Mapping[str, Any] | None = None, device: str | None = None
) -> dict[str, float]:
    """Probe a finished run again, e.g. with other poolings; rewrites metrics.json and the report.

    Args:
        path: run folder.
        settings: dotted names of the evaluate and data sections.
        device: "cpu", "cuda", "auto"; the run's own `train.device` if not given.

    Raises:
        ValueError: settings that cannot work, or CUDA is asked for and absent.
        FileNotFoundError: no run, or one that has not come to its end.
    """
    run = Run(Path(path))
    config = changed(run.config, settings or {})
    if device is not None:
        config = changed(config, {"train.device": device})
    pick_device(config.train.device)  # complains before data are opened
    if not (run.path / "encoder.safetensors").is_file():
        raise FileNotFoundError(
            f"no encoder in {run.path}: its training has not come to an end; go on with "
            f"--out {run.path} --resume"
        )
    with locked(run.path, Processes(0, 1, torch.device("cpu")), False):
        pretrained = load(run.path)
        if hasattr(config, "shape"):
            config = replace(config, shape=pretrained.config.shape)
        adapter: Any = adapters[config.modality](config, run.path)
        if hasattr(adapter, "adopt"):  # as it was fitted, whatever data are scored
            adapter.adopt(pretrained.tokenizer, pretrained.encoder, pretrained.config)
        else:
            adapter.tokenizer = pretrained.tokenizer
        known = run.metrics if (run.path / "metrics.json").exists() else {}
        facts = {k: v for k, v in known.items() if k.startswith(("speed/", "train/", "collapse/"))}
        finish(run, adapter, None, facts, None)
    return run.metrics


def _fresh_folder(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{name}-{stamp}"


def compare(folder: Path, config: Any) -> None:
    """Complain about settings with which a run cannot go on exactly.

    Raises:
        FileNotFoundError: no run in the folder.
        ValueError: another configuration than the folder's.
    """
    old = read_config(folder / "config.json")
    changes = [d for d in differences(old, config) if not d.startswith(FREE)]
    if changes:
        raise ValueError(
            f"{folder} was begun with other settings, so it cannot go on exactly:\n  "
            + "\n  ".join(changes)
            + "\ngive the same settings, or start in another --out folder"
        )
