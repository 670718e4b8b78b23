"""The minimal adapter of CONTRIBUTING.md: it keeps the contract, trains, and is quoted truly."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import jepa_modalities as jm
from jepa_modalities.settings import changed
from jepa_modalities.testing import check_adapter

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "minimal_adapter.py"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses resolve their annotations there
    spec.loader.exec_module(module)
    return module


wave = _load("minimal_adapter")


def test_keeps_the_contract() -> None:
    config = replace(wave.wave_tiny(), data=wave.WaveData(samples=32))
    check_adapter(wave.WaveAdapter(config))


def test_the_waves_are_what_they_say() -> None:
    data = wave.WaveData(noise=0.0)
    waves, labels = wave.draw_waves(40, data, 0)
    assert waves.shape == (40, data.length) and labels.tolist() == [0, 1, 2, 3] * 10
    sine, square, triangle, saw = (waves[labels == n] for n in range(4))
    assert set(square.unique().tolist()) <= {-1.0, 0.0, 1.0}
    # Root mean squares of the four shapes over full turns: 1/sqrt 2, 1, 1/sqrt 3, 1/sqrt 3.
    for part, expected in ((sine, 0.5**0.5), (square, 1.0), (triangle, 3**-0.5), (saw, 3**-0.5)):
        assert float(part.square().mean().sqrt()) == pytest.approx(expected, abs=0.05)
    again, _ = wave.draw_waves(40, data, 0)
    other, _ = wave.draw_waves(40, data, 1)
    assert torch.equal(waves, again) and not torch.equal(waves, other)


def test_pretrains_with_probes_and_report(tmp_path: Path) -> None:
    small = {"data.samples": 96, "train.steps": 4, "train.batch_size": 16, "evaluate.untrained": 2}
    config = changed(wave.wave_tiny(), {**small, "evaluate.poolings": ("mean",)})
    run = jm.pretrain(config, tmp_path / "run", quiet=True)
    for arm in ("encoder", "student", "untrained", "raw", "bar"):
        assert 0 <= run.metrics[f"{arm}/linear/accuracy"] <= 1
    assert "paired/encoder-untrained/linear_10shot/accuracy" in run.metrics
    assert "Results beside their controls" in (run.path / "report.html").read_text()
    encoder = jm.load(run.path)
    waves = np.random.default_rng(0).standard_normal((5, 128)).astype(np.float32)
    features = encoder.embed(waves)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(waves)).tokens.mean(1).numpy()
    assert features == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match=r"\(samples, 128\)"):
        encoder.embed(waves[:, :100])


def parts() -> dict[str, str]:
    """The file's parts by name: what stands between one `# part: name` and the next."""
    found = re.split(r"^ *# part: (\w+)\n", FILE.read_text(), flags=re.MULTILINE)[1:]
    return {
        name: textwrap.dedent(code).strip("\n")
        for name, code in zip(found[::2], found[1::2], strict=True)
    }


def test_contributing_quotes_the_file() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    quoted = re.findall(r"^```python\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)
    assert quoted[:-1] == list(parts().values())
    # The last block is this file's first test.
    assert quoted[-1] in Path(__file__).read_text()
