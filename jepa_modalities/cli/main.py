"""The command line: `jm COMMAND ...` (also installed as `jepa-modalities`)."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

PART = 4096  # rows of a table that `jm embed` holds at a time
COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {}


def command(name: str, about: str) -> Callable[[Callable[[list[str]], int]], Callable[..., int]]:
    """Announce a subcommand."""

    def announce(function: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
        COMMANDS[name] = (about, function)
        return function

    return announce


def _parser(name: str, usage: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"jm {name}", usage=f"jm {name} {usage}")


@command("recipes", "list what there is")
def _recipes(args: list[str]) -> int:
    _parser("recipes", "").parse_args(args)
    from rich.table import Table

    from jepa_modalities.api import recipes

    table = Table("recipe", "what it is", box=None)
    for name, about in recipes().items():
        table.add_row(name, about)
    Console().print(table)
    return 0


@command("pretrain", "pretrain, probe beside controls, write the run folder")
def _pretrain(args: list[str]) -> int:
    from jepa_modalities import api
    from jepa_modalities.cli.config import merge, own_flags

    parser = argparse.ArgumentParser(prog="jm pretrain", add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    own_flags(parser)
    own, rest = parser.parse_known_args(args)
    if own.recipe is None or own.recipe.startswith("-"):
        parser.print_help()
        print("\nrecipes: " + ", ".join(api.recipes()))
        print("every setting is a flag: jm pretrain RECIPE --help")
        return 0 if "--help" in args or "-h" in args else 2
    config = api.recipe(own.recipe)
    resuming = own.resume or own.resume_step is not None
    if resuming and own.out is None:
        raise ValueError("--resume needs --out DIR: the run folder that goes on")
    if resuming:
        config = api.begun(Path(own.out), config)
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())
    config = merge(config, rest, f"jm pretrain {own.recipe}")
    run = api.pretrain(
        config,
        own.out,
        seed=own.seed,
        resume=own.resume,
        resume_step=own.resume_step,
        quiet=own.quiet,
    )
    _finish(run.path)
    return 0


def _finish(path: Path) -> None:
    """The result table, the report and the run folder: the last line is `run: DIR`."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    from jepa_modalities.cli.table import result_table

    console = Console()
    if (path / "metrics.json").exists():
        table = result_table(path)
        if table.renderables:
            console.print(table)
        console.print(f"report: {path / 'report.html'}", soft_wrap=True)
    console.print(f"run: {path}", soft_wrap=True, highlight=False)


@command("estimate", "what a run would cost, before it is started")
def _estimate(args: list[str]) -> int:
    from jepa_modalities.cli.estimate import run

    return run(args)


@command("evaluate", "probe a run's encoder again")
def _evaluate(args: list[str]) -> int:
    import json

    from jepa_modalities import api
    from jepa_modalities.cli.config import merge
    from jepa_modalities.settings import differences

    usage = "RUN [--json] [--device NAME] [--evaluate.NAME VALUE ...] [--data.NAME VALUE ...]"
    parser = _parser("evaluate", usage)
    parser.add_argument("run")
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of a table")
    parser.add_argument("--device", help="cpu, cuda or auto (default: where the run was trained)")
    own, rest = parser.parse_known_args(args)
    run = api.Run(Path(own.run))
    config = merge(run.config, rest, "jm evaluate RUN")
    heard = ("evaluate.", "data.", "train.device")
    if deaf := [d for d in differences(run.config, config) if not d.startswith(heard)]:
        raise ValueError(
            "jm evaluate takes the encoder as it was trained: give --device, --evaluate.NAME and "
            "--data.NAME only, not\n  " + "\n  ".join(deaf)
        )
    settings = {"evaluate": config.evaluate} | (
        {"data": config.data} if hasattr(config, "data") else {}
    )
    metrics = api.evaluate(own.run, settings, own.device or config.train.device)
    if own.json:
        print(json.dumps(metrics, indent=1))
    else:
        _finish(run.path)
    return 0


@command("embed", "features of your own data")
def _embed(args: list[str]) -> int:
    parser = _parser("embed", "RUN INPUT --out FILE.parquet|.npy [--pooling NAME] [--device NAME]")
    parser.add_argument("run")
    parser.add_argument("input")
    parser.add_argument("--out", required=True)
    parser.add_argument("--pooling")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    own = parser.parse_args(args)
    from jepa_modalities import api
    from jepa_modalities.cli.table import stream_features, write_features
    from jepa_modalities.data.table_part import frame_parts, is_table

    out = Path(own.out)
    if out.suffix not in (".npy", ".parquet"):
        raise ValueError(f"--out {out}: give a name that ends in .npy or .parquet")
    if out.exists() and Path(own.input).exists() and out.samefile(own.input):
        raise ValueError(f"--out {out} is the input; give another name")
    encoder = api.load(own.run, own.device)
    if is_table(own.input) and out.suffix == ".parquet":  # of any length: part by part
        shape = getattr(encoder.config, "shape", None)
        text: tuple[str, ...] = getattr(shape, "text", ())
        parts = (encoder.embed(part, own.pooling) for part in frame_parts(own.input, PART, text))
        rows, width = stream_features(out, parts)
    else:
        features, remarks = encoder.embed_with_remarks(own.input, own.pooling)
        write_features(out, features, remarks)
        rows, width = features.shape
        for remark in remarks:
            print(f"note: {own.input}: {remark}", file=sys.stderr)
    print(f"{rows} samples x {width} features: {out}")
    return 0


@command("prepare", "build a training file from raw data")
def _prepare(args: list[str]) -> int:
    from jepa_modalities.cli.progress import progress_bar
    from jepa_modalities.data.prepare import PREPARERS

    known = ", ".join(sorted(PREPARERS))
    parser = _parser("prepare", f"DATASET SOURCE OUT [options]   (DATASET: {known})")
    parser.add_argument("dataset", choices=sorted(PREPARERS))
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--size", type=int, help="images: side of the stored images, pixels")
    parser.add_argument("--rate", type=int, help="ptbxl: 100 or 500 Hz")
    parser.add_argument("--annotator", help="mitdb, wfdb: extension of the annotation files")
    parser.add_argument("--fs", type=float, help="arrays: sampling rate, Hz")
    parser.add_argument("--leads", help="arrays: names in order, such as I,II,V1")
    parser.add_argument("--unit", help="arrays: of the values; mV")
    parser.add_argument("--gain", type=float, help="arrays: integers per unit")
    parser.add_argument("--key", help="arrays: dataset in the .h5 file")
    parser.add_argument("--name", help="wfdb, arrays: of the source")
    parser.add_argument("--compress", action="store_const", const=True, help="ECG: gzip, half size")
    parser.add_argument("--on-error", choices=("raise", "skip"), help="what bad items lead to")
    parser.add_argument(
        "--strict",
        action="store_const",
        const="raise",
        dest="on_error",
        help="stop at bad items; the same as --on-error raise",
    )
    parser.add_argument(
        "--anew",
        action="store_const",
        const=False,
        dest="resume",
        help="do not go on with what an interrupted call left behind",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    own = parser.parse_args(args)
    given = {name: value for name, value in vars(own).items() if value is not None}
    options = {name: value for name, value in given.items() if name not in _PREPARE_OWN}
    prepare = PREPARERS[own.dataset]
    takes = inspect.signature(prepare).parameters
    if strange := [name for name in options if name not in takes]:
        flag = strange[0].replace("_", "-")
        raise ValueError(f"jm prepare {own.dataset} has no setting --{flag}")
    console = Console()
    with progress_bar(own.quiet) as bar:
        summary = prepare(own.source, own.out, progress=bar, **options)
    for path, digest in summary.files.items():
        console.print(f"{own.dataset}: {path}", soft_wrap=True, highlight=False)
        console.print(f"sha256: {digest}", soft_wrap=True, highlight=False)
    kept = " before, kept" if summary.written and summary.resumed == summary.written else ""
    console.print(f"{summary.written} written{kept}, {len(summary.skipped)} skipped")
    for line in _skip_summary(summary.skipped):
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    for note in summary.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    return 0


_PREPARE_OWN = ("dataset", "source", "out", "quiet")
_SHOWN = 20


def _skip_summary(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """One line per item that was left out; the first of many, the file holds all."""
    lines = [f"{name}: {reason}" for name, reason in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        more = len(skipped) - _SHOWN
        lines.append(f"and {more:,} more: datasets skipped and skipped_reason of the file")
    return lines


@command("report", "make report.html again, or compare several runs")
def _report(args: list[str]) -> int:
    parser = _parser("report", "RUN [RUN ...] [--out FILE.html]")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", default="comparison.html")
    own = parser.parse_args(args)
    from jepa_modalities.eval.report import compare_reports, write_report

    runs = [Path(run) for run in own.runs]
    page = write_report(runs[0]) if len(runs) == 1 else compare_reports(runs, Path(own.out))
    print(f"report: {page}")
    return 0


@command("runs", "list the runs in a folder")
def _runs(args: list[str]) -> int:
    parser = _parser("runs", "[DIR]")
    parser.add_argument("folder", nargs="?", default="runs")
    own = parser.parse_args(args)
    from jepa_modalities.cli.table import run_table

    Console().print(run_table(Path(own.folder)))
    return 0


@command("export", "encoder for other tools")
def _export(args: list[str]) -> int:
    parser = _parser("export", "RUN --format timm|safetensors|onnx|hub --out PATH")
    parser.add_argument("run")
    parser.add_argument("--format", required=True, choices=("timm", "safetensors", "onnx", "hub"))
    parser.add_argument("--out", required=True)
    own = parser.parse_args(args)
    from jepa_modalities.export import export

    print(f"{own.format}: {export(Path(own.run), own.format, Path(own.out))}")
    return 0


@command("doctor", "check this machine and the data")
def _doctor(args: list[str]) -> int:
    _parser("doctor", "").parse_args(args)
    from jepa_modalities.cli.doctor import doctor

    return doctor(Console())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors of the user's making are one readable message and exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print("usage: jm COMMAND ...\n")
        for name, (about, _) in COMMANDS.items():
            print(f"  {name:<10} {about}")
        print("\njm COMMAND --help tells more; jm pretrain image_digits is the place to start")
        return 0 if args else 2
    if args[0] == "--version":
        from jepa_modalities import __version__

        print(__version__)
        return 0
    if args[0] not in COMMANDS:
        print(f"jm: no command {args[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _guarded(*args)


def _guarded(name: str, *args: str) -> int:
    from jepa_modalities.train.engine import Interrupted

    try:
        return COMMANDS[name][1](list(args))
    except BrokenPipeError:  # the reader, e.g. `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError, KeyError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print("\n".join([f"error: {message}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        if isinstance(error, OSError) and error.errno == 28:
            again = "go on with --resume" if name == "pretrain" else "give the same command again"
            print(f"the disk is full: free space, then {again}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumed = "a run that has a checkpoint goes on with --resume"
        if name == "prepare":
            resumed = "the same command goes on where this one stopped"
        print(f"\ninterrupted; {resumed}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
