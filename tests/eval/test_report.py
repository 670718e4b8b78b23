"""The report page: every number from the run folder, nothing from outside, whatever is missing."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jepa_modalities.eval import page as page_module
from jepa_modalities.eval import score as scores
from jepa_modalities.eval.curve import Curve, canvas, finite, panel, svg, thin
from jepa_modalities.eval.page import THEME, Picture, colour
from jepa_modalities.eval.report import compare_reports, write_report
from jepa_modalities.eval.score import Column, Score, outcome, parse
from jepa_modalities.eval.summary import summary_lead, summary_text

pytestmark = pytest.mark.usefixtures("curves")
VOID = {"meta", "br", "img", "link", "input", "hr"}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


class Page(HTMLParser):
    """Checks that tags balance and keeps what the tests ask for."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[tuple[list[str], str]] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


def flat_metrics() -> dict[str, float]:
    values: dict[str, float] = {}
    generator = np.random.default_rng(0)
    for arm in ("encoder", "untrained", "raw", "bar", "encoder+bar", "raw_svm_augmented"):
        for probe in ("linear", "knn", "linear_1shot", "linear_10shot"):
            value = float(generator.uniform(0.3, 0.98))
            key = f"{arm}/{probe}/accuracy"
            values |= {key: value, f"{key}_low": value - 0.01, f"{key}_high": value + 0.012}
            values[f"{key}_seeds"] = 5
    for arm in ("encoder", "untrained"):
        for pooling in ("last4_mean", "quadrants"):
            values[f"{arm}/linear@{pooling}/accuracy"] = float(generator.uniform(0.3, 0.98))
    for control, gap in (("untrained", 0.05), ("raw", 0.001), ("bar", -0.03)):
        key = f"paired/encoder-{control}/linear/accuracy"
        values |= {key: gap, f"{key}_low": gap - 0.01, f"{key}_high": gap + 0.01}
    return values | {"collapse/rankme": 41.25, "speed/samples_per_second": 1234.5}


def records(count: int, every: int = 10) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(1, count + 1):
        row: dict[str, object] = {"step": step, "loss": 1 / step, "lr": 1e-4, "momentum": 0.996}
        row |= {"term/prediction": 0.9 / step, "term/variance": 0.1 / step}
        if step % every == 0 or step == 1:
            row |= {"collapse/rankme": 20.0 + step, "collapse/std": 0.5, "probe/knn": 0.6}
            row["verdict"] = f"healthy at {step}"
        rows.append(row)
    return rows


def run_folder(
    path: Path, metrics: dict[str, float] | None = None, log: list[dict[str, object]] | None = None
) -> Path:
    path.mkdir(parents=True)
    config = {"recipe": "image_digits", "modality": "image", "train": {"lr": 0.001, "epochs": 9}}
    env = {"device": "cpu", "command": ["jm", "pretrain", "image_digits", "--out", "a b"]}
    (path / "config.json").write_text(json.dumps(config))
    (path / "env.json").write_text(json.dumps(env))
    (path / "metrics.json").write_text(json.dumps(flat_metrics() if metrics is None else metrics))
    log = records(40) if log is None else log
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    return path


def figure_picture() -> Picture:
    figure = canvas(200, 100)
    figure.add_axes((0.1, 0.1, 0.8, 0.8)).imshow(np.zeros((4, 4, 3)))
    return Picture("Masks", "What the encoder sees.", figure)


def test_page_is_sound_and_holds_every_part(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    out = write_report(run, {"masks": figure_picture(), "raw": Picture("Scan", "Bytes.", PNG)})
    assert out == run / "report.html"
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    for words in (
        "image_digits", "Results beside their controls", "With few labels", "linear, 1 label per",
        "Loss terms", "RankMe", "Probe during training", "Masks", "Bytes.", "healthy at 40",
        "jm pretrain image_digits --out 'a b'", "epochs", "1,234", "Other poolings", "quadrants",
    ):  # fmt: skip
        assert words in page.text, words
    assert "healthy at 30" not in page.text  # the last verdict counts
    assert len(source) < 3_000_000
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme:dark" in source


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    out = write_report(run, {"masks": figure_picture(), "raw": Picture("Scan", "Bytes.", PNG)})
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    links = [v for name in ("src", "href", "xlink:href") for v in page.attributes(name)]
    assert any(link.startswith("data:image/png;base64,") for link in links)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} <= set(page.attributes("id"))
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert re.findall(r"url\((?!#)", source) == [] and "@import" not in source
    # References inside the SVGs point to ids of the same page.
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(page.attributes("id"))
    policies = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policies == [page_module.POLICY]


def rows_of(source: str) -> dict[str, list[list[float]]]:
    """Head cell -> exact numbers per cell, from the main results table."""
    start = source.index("aria-label='Results with controls'")
    body = source[source.index("<tbody>", start) : source.index("</tbody>", start)]
    rows = {}
    for row in re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL):
        name = re.findall(r"<th scope='row'>([^<]+)", row)[0]
        cells = re.findall(r"<td.*?</td>", row, flags=re.DOTALL)
        rows[name] = [[float(v) for v in re.findall(r"<data value='([^']+)'", c)] for c in cells]
    return rows


def test_table_equals_metrics(tmp_path: Path) -> None:
    metrics = flat_metrics()
    source = write_report(run_folder(tmp_path / "run")).read_text(encoding="utf-8")
    rows = rows_of(source)
    assert list(rows) == ["encoder", "encoder+bar", "untrained", "raw", "bar", "raw_svm_augmented"]
    probes = ("linear", "knn", "linear_1shot", "linear_10shot")
    for arm, cells in rows.items():
        for probe, cell in zip(probes, cells, strict=True):
            key = f"{arm}/{probe}/accuracy"
            assert cell == [metrics[key], metrics[key + "_low"], metrics[key + "_high"]]
    # What people read is the exact number, rounded; and nothing on the page is invented.
    for exact, shown in re.findall(r"<data value='([^']+)'>([^<]+)</data>", source):
        assert float(exact) in metrics.values()
        read = float(shown.replace("\N{MINUS SIGN}", "-"))
        assert abs(read - 100 * float(exact)) <= 0.05 + 1e-9
    for column in range(4):  # one bold value a column, the largest
        best = max(cells[column][0] for cells in rows.values())
        assert f"<b><data value='{best!r}'>" in source


def test_every_arm_with_and_without_mark(tmp_path: Path) -> None:
    source = write_report(run_folder(tmp_path / "run")).read_text(encoding="utf-8")
    for arm, control in (("encoder", 0), ("encoder+bar", 0), ("untrained", 1), ("raw", 1)):
        tag = "<span class='tag'>control</span>" * control
        assert f"<th scope='row'>{arm}{tag}<small>" in source
    assert source.count("<tr class='encoder'>") == 3  # main table and two poolings


def test_other_poolings_stand_beside_the_untrained_encoder(tmp_path: Path) -> None:
    metrics = flat_metrics() | {"encoder/linear@max/accuracy": 0.4242}
    source = write_report(run_folder(tmp_path / "run", metrics)).read_text(encoding="utf-8")
    start = source.index("<summary>Other poolings</summary>")
    block = source[start : source.index("</details>", start)]
    for key in ("encoder/linear@quadrants", "untrained/linear@quadrants"):
        assert f"<data value='{metrics[key + '/accuracy']!r}'>" in block
    assert "0.4242" not in source and "linear@max/accuracy" in source  # named, not printed


def test_result_without_control_is_named_but_not_printed(tmp_path: Path) -> None:
    metrics = flat_metrics() | {"encoder/finetune/accuracy": 0.98765}
    source = write_report(run_folder(tmp_path / "run", metrics)).read_text(encoding="utf-8")
    assert "no control was measured beside it: finetune/accuracy" in source
    assert "0.98765" not in source and "98.8" not in Page(source).text


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("accuracy", 0.001, 0.02, "beats"),
        ("accuracy", -0.02, -0.001, "falls below"),
        ("accuracy", -0.01, 0.01, "tie"),
        ("accuracy", 0.0, 0.01, "tie"),
        ("accuracy", None, None, "unknown"),
        ("rmse", -0.02, -0.001, "beats"),
        ("rmse", 0.001, 0.02, "falls below"),
    ],
)
def test_outcome(metric: str, low: float | None, high: float | None, expected: str) -> None:
    assert outcome(Score(0.5, low, high), metric) == expected


def pairs(**gaps: float) -> dict[str, float]:
    flat = {"encoder/linear/accuracy": 0.9}
    for control, gap in gaps.items():
        key = f"paired/encoder-{control}/linear/accuracy"
        flat |= {f"{control}/linear/accuracy": 0.9 - gap, key: gap}
        flat |= {f"{key}_low": gap - 0.01, f"{key}_high": gap + 0.01}
    return flat


def test_summary_says_what_the_pairs_say() -> None:
    lead = summary_lead(parse(pairs(untrained=0.05, raw=0.001, bar=-0.03)))
    assert lead == (
        "The encoder beats the untrained encoder, ties with the raw input and falls below the "
        "parameter-free bar in the linear probe."
    )
    assert "beats all 2 paired controls" in summary_lead(parse(pairs(untrained=0.05, raw=0.02)))
    mixed = summary_lead(parse(pairs(raw=-0.05, bar=-0.02)))
    assert mixed.startswith("The encoder falls below the raw input and the parameter-free bar in")
    body = summary_text(parse(pairs(untrained=0.05, raw=0.001, bar=-0.03)))
    assert "reaches 90.0 % accuracy" in body
    assert "(+5.0 points, interval +4.0 to +6.0)" in body
    assert "all 3 comparisons on this page, it beats its control in 1, ties in 1 and falls" in body


def test_summary_does_not_hide_a_better_untested_control() -> None:
    flat = pairs(untrained=0.05) | {"raw_svm/linear/accuracy": 0.95, "weak/linear/accuracy": 0.5}
    lead = summary_lead(parse(flat))
    assert lead.endswith("in the linear probe; better in value, but not paired: raw_svm.")
    assert "Without a paired test: raw_svm (95.0 %) and weak (50.0 %)." in summary_text(parse(flat))
    assert "better" not in summary_lead(parse(pairs(untrained=0.05)))


def test_summary_claims_nothing_without_pairs_or_intervals() -> None:
    alone = parse({"encoder/linear/accuracy": 0.9, "raw/linear/accuracy": 0.2})
    assert "is not known" in summary_lead(alone) and "not tested" in summary_text(alone)
    assert "not been evaluated" in summary_lead(parse({}))
    flat = {"paired/encoder-raw/linear/accuracy": 0.4, "encoder/linear/accuracy": 0.9}
    lead = summary_lead(parse(flat))
    assert "has no interval against the raw input" in lead and "beats" not in lead


def test_parse_splits_names_and_siblings() -> None:
    flat: dict[str, object] = {
        "a-b/linear/accuracy": 0.5, "c/linear/accuracy": 0.25, "c/linear/accuracy_seeds": 3,
        "paired/a-b-c/linear@max/accuracy": 0.1, "c/knn/set_low": 0.75, "collapse/std": 1.0,
        "c/linear/broken": math.nan, "c/linear/word": "x",
    }  # fmt: skip
    results = parse(flat)
    column = Column("linear", "", "accuracy")
    assert results.arms["c", column] == Score(0.25, None, None, 3.0)
    assert results.arms["c", Column("knn", "", "set_low")].value == 0.75  # no base, so a metric
    assert list(results.paired) == [("a-b", "c", Column("linear", "max", "accuracy"))]
    assert results.other == {"collapse/std": 1.0}
    assert len(results.arms) == 3


def test_best_follows_the_metric_and_shares_ties() -> None:
    values = {"a": Score(0.3), "b": Score(0.7), "c": Score(0.7)}
    assert scores.best(values, "accuracy") == {"b", "c"}
    assert scores.best(values, "rmse") == {"a"}


HOSTILE = "<script>alert('x')</script>\"&$\\frac{$"


def test_hostile_strings_are_escaped(tmp_path: Path) -> None:
    flat = {f"{arm}/{HOSTILE[:8]}_1shot/acc<b>": 0.5 for arm in ("encoder", HOSTILE, "raw")}
    log = [{"step": 1, "loss": 1.0, f"term/{HOSTILE}": 1.0, "term/b": 2.0, "verdict": HOSTILE}]
    log[0][HOSTILE] = 3.0
    run = run_folder(tmp_path / "run", flat, log)
    (run / "config.json").write_text(json.dumps({"recipe": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}))
    (run / "env.json").write_text(json.dumps({"device": HOSTILE, "command": HOSTILE}))
    figure = canvas(100, 100)
    figure.text(0, 0, HOSTILE, parse_math=False)
    pictures = {HOSTILE: Picture(HOSTILE, HOSTILE, figure), "b": Picture(HOSTILE, HOSTILE, PNG)}
    source = write_report(run, pictures).read_text(encoding="utf-8")
    page = Page(source)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in source.lower()
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count("alert('x')") > 8  # shown as text


@pytest.mark.parametrize(
    ("said", "kind"),
    [("healthy: fine", "calm"), ("collapsed: one direction", "alarm"), ("'><b", "")],
)
def test_verdict_has_the_tone_of_its_first_word(tmp_path: Path, said: str, kind: str) -> None:
    log: list[dict[str, object]] = [{"step": 7, "loss": 1.0, "verdict": said}]
    page = Page(write_report(run_folder(tmp_path / "run", {}, log)).read_text(encoding="utf-8"))
    assert f"at step 7: {said}" in page.text
    assert f"verdict {kind}" in page.attributes("class")


PARTS = ("config.json", "env.json", "log.jsonl", "metrics.json")


@pytest.mark.parametrize("kept", [(), *((part,) for part in PARTS), PARTS[:3], PARTS[1:]])
def test_missing_files_are_tolerated(tmp_path: Path, kept: tuple[str, ...]) -> None:
    run = run_folder(tmp_path / "run")
    for part in set(PARTS) - set(kept):
        (run / part).unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert ("not been evaluated" in page.text) == ("metrics.json" not in kept)
    assert ("optimiser step" in page.text) == ("log.jsonl" in kept)


def test_broken_files_are_noted(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / "config.json").write_text("{")
    (run / "env.json").write_text("[1]")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"loss": 1}\n[3]\n\n{"step": 41, "lo')
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "config.json is not valid JSON" in page.text
    assert "env.json holds a list" in page.text
    assert "3 unreadable lines" in page.text
    assert "Loss terms" in page.text


def test_resumed_run_keeps_the_later_record_of_a_step(tmp_path: Path) -> None:
    first: list[dict[str, object]] = [
        {"step": step, "loss": 9.0, "verdict": "old"} for step in (1, 2, 3)
    ]
    again: list[dict[str, object]] = [
        {"step": step, "loss": 1.0, "verdict": f"new {step}"} for step in (2, 3, 4)
    ]
    page = Page(write_report(run_folder(tmp_path / "run", {}, first + again)).read_text())
    assert "step 4: new 4" in page.text and "steps 4" in page.text
    assert "RankMe" not in page.text


def test_one_record_and_values_that_are_not_finite(tmp_path: Path) -> None:
    log: list[dict[str, object]] = [{"step": 5, "loss": math.nan, "lr": 0.1, "momentum": math.inf}]
    metrics = {"encoder/linear/accuracy": math.nan, "raw/linear/accuracy": 0.5}
    page = Page(write_report(run_folder(tmp_path / "run", metrics, log)).read_text())
    assert "Learning rate" in page.text and "EMA momentum" not in page.text
    assert "nan" not in page.text.lower()


def test_finite_keeps_numbers_only() -> None:
    rows: list[dict[str, object]] = [{"step": 1, "a": 2}, {"step": 2, "a": None}, {"a": 1}]
    rows += [{"step": 3, "a": math.nan}, {"step": 4, "a": True}, {"step": 5, "a": 0.5}]
    assert finite(rows, "a") == ([1.0, 5.0], [2.0, 0.5])


def test_thin_keeps_the_range_and_the_mean() -> None:
    generator = np.random.default_rng(1)
    steps, values = np.arange(1, 1038.0), generator.normal(size=1037)
    at, mean, low, high = thin(steps, values, most=100)
    assert len(at) == 100 and at[-1] == steps[-1]
    begin = 0
    for number, end in enumerate(at.astype(int)):
        part = [values[i] for i in range(begin, end)]
        assert mean[number] == pytest.approx(sum(part) / len(part))
        assert (low[number], high[number]) == (min(part), max(part))
        begin = end
    assert begin == len(values)
    assert thin(steps, values, most=1037)[0] is steps


def test_long_log_makes_a_small_page(tmp_path: Path) -> None:
    log = records(20_000, every=100)
    out = write_report(run_folder(tmp_path / "run", None, log))
    assert out.stat().st_size < 700_000


def test_svg_follows_the_theme() -> None:
    drawn = panel("Loss", [Curve("a", [1, 2], [0.5, 0.1]), Curve("b", [1], [1])], "loss", "p")
    assert "var(--series-1)" in drawn and "var(--series-2)" in drawn and "var(--muted)" in drawn
    assert colour("series-1") not in drawn
    assert ">optimiser step</text>" in drawn
    assert panel("Loss", [Curve("a", [], [])], "loss", "p") == ""
    figure = canvas(50, 50)
    figure.text(0, 0, "red", color="#ff0000")
    kept = svg(figure, "x", 'a "quoted" name')
    assert "#ff0000" in kept and "aria-label='a &quot;quoted&quot; name'" in kept


def contrast(first: str, second: str) -> float:
    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_can_be_read(mode: int) -> None:
    """WCAG 2: 4.5 for text, 3 for lines of a chart."""
    for ground in ("paper", "wash", "accent"):
        for name in ("ink", "muted", "good", "even", "bad"):
            assert contrast(THEME[name][mode], THEME[ground][mode]) >= 4.5, (name, ground)
    for number in range(1, 9):
        assert contrast(THEME[f"series-{number}"][mode], THEME["paper"][mode]) >= 3
    # A light colour stands for one variable in the SVGs, so no two may be the same.
    assert len({light for light, _ in THEME.values()}) == len(THEME)


def test_write_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(tmp_path / "run")
    out = write_report(run)
    before, names = out.read_bytes(), sorted(p.name for p in run.iterdir())

    def fail(number: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(run, {"masks": figure_picture()})
    assert out.read_bytes() == before
    assert sorted(p.name for p in run.iterdir()) == names


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="jm pretrain"):
        write_report(tmp_path / "absent")
    run = run_folder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"'Scan'.*format='png'"):
        write_report(run, {"scan": Picture("Scan", "", b"GIF89a")})
    assert not (run / "report.html").exists()
    with pytest.raises(ValueError, match="at least one run"):
        compare_reports([], tmp_path / "out.html")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        compare_reports([run], tmp_path / "absent" / "out.html")


def test_compare_reports(tmp_path: Path) -> None:
    metrics = flat_metrics()
    second = metrics | {"encoder/linear/accuracy": 0.9999}
    runs = [run_folder(tmp_path / "a" / "run"), run_folder(tmp_path / "b" / "run", second)]
    empty = tmp_path / "empty"
    empty.mkdir()
    out = compare_reports([*runs, empty], tmp_path / "compare.html")
    source = out.read_text(encoding="utf-8")
    page = Page(source)
    assert "a/run" in page.text and "b/run" in page.text and "empty" in page.text
    first = f"<data value='{metrics['encoder/linear/accuracy']!r}'>"
    assert first in source and f"<b>{first}" not in source
    assert "<b><data value='0.9999'>" in source
    controls = ("untrained", "raw", "bar", "raw_svm_augmented")
    strongest = max(controls, key=lambda arm: metrics[f"{arm}/linear/accuracy"])
    assert f"best control: {strongest} <data" in source
    assert "Comparison of 3 runs" in page.text and "Probe: kNN" in page.text
    links = [v for name in ("src", "href") for v in page.attributes(name)]
    assert all(link.startswith("#") for link in links)
    assert "None of these runs" in compare_reports([empty], tmp_path / "none.html").read_text()
