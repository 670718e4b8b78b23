"""The hub folder loads offline and shows results beside controls, but no folder of this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from jepa_modalities.export.encoder import PretrainedEncoder, load_encoder, save_encoder
from jepa_modalities.export.hub import export_hub, from_pretrained, push
from jepa_modalities.export.portable import export_safetensors

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (comes with huggingface_hub)")

Make = Callable[..., PretrainedEncoder]

METRICS = {
    "encoder/linear/accuracy": 0.957,
    "encoder/linear/accuracy_low": 0.946,
    "encoder/linear/accuracy_high": 0.968,
    "untrained/linear/accuracy": 0.921,
    "untrained/linear/accuracy_seeds": 3,
    "raw/linear/accuracy": 0.935,
    "encoder/attentive/accuracy": 0.777,  # without a control: must not be shown
    "collapse/rankme": 17.25,
    "train/samples_seen": 123456.0,
}


@dataclass(frozen=True)
class Folder:
    path: Path


@pytest.fixture
def run(encoder: Make, tmp_path: Path) -> Folder:
    folder = tmp_path / "run"
    folder.mkdir()
    ours = encoder()
    states = ours.encoder.state_dict(), ours.tokenizer.state_dict()
    save_encoder(folder / "encoder.safetensors", *states, ours.config, "at step 7")
    save_encoder(folder / "student.safetensors", *states, ours.config, "student")
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    made = {"torch": "2.9", "command": ["/home/someone/bin/jm"], "jepa_modalities": "0.1"}
    (folder / "env.json").write_text(json.dumps(made))
    return Folder(folder)


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_folder_loads_offline_with_equal_features(
    run: Folder, images: Tensor, tmp_path: Path
) -> None:
    out = export_hub(run, tmp_path / "out")
    names = ["README.md", "config.json", "encoder.safetensors", "metrics.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    original = load_encoder(run.path / "encoder.safetensors")
    loaded = from_pretrained(out)
    raw = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(loaded.embed(raw), original.embed(raw))
    assert loaded.note == "at step 7"
    assert json.loads((out / "config.json").read_text())["data"]["path"] == "pets.h5"
    for file in out.iterdir():
        assert b"someone" not in file.read_bytes(), file


def test_card_shows_results_beside_controls(run: Folder, tmp_path: Path) -> None:
    header, text = card_of(export_hub(run, tmp_path / "out", datasets=["owner/pets"]))
    assert header["library_name"] == "jepa_modalities"
    assert header["datasets"] == ["owner/pets"]
    assert {"jepa", "image"} <= set(header["tags"])
    assert "license" not in header
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1] for row in rows] == [
        "linear: accuracy (%) |",
        "--- |",
        "95.7 (94.6 to 96.8) |",
        "92.1 |",
        "93.5 |",
    ]
    assert "control" not in rows[2] and "control" in rows[3] and "control" in rows[4]
    assert "77.7" not in text and "attentive" not in text
    for told in (
        "An image encoder",
        "moving-average teacher",
        "seed 0",
        "3 seeds",
        "pets.h5",
        "123,456",
        "17.2 of 24",
        "torch 2.9",
        "## Limits",
    ):
        assert told in text, told


def test_card_code_loads_the_folder(run: Folder, images: Tensor, tmp_path: Path) -> None:
    out = export_hub(run, tmp_path / "out", license="apache-2.0")
    header, text = card_of(out)
    assert header["license"] == "apache-2.0"
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 3
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1).numpy())
    code = code.replace("OWNER/NAME", str(out))
    code = code.replace("folder_of_images", str(tmp_path / "images.npy"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["features"].shape == (3, 24)


def test_card_without_results_says_so(run: Folder, tmp_path: Path) -> None:
    out = export_hub(run.path / "student.safetensors", tmp_path / "out")
    _, text = card_of(out)
    assert "No probe results" in text and "95.7" not in text
    assert not (out / "metrics.json").exists()
    with pytest.raises(FileExistsError):
        export_hub(run, out)
    with pytest.raises(FileNotFoundError, match="no encoder file"):
        export_hub(tmp_path / "nowhere", tmp_path / "other")
    (run.path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics.json is no JSON"):
        export_hub(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_safetensors_alone(run: Folder, tmp_path: Path) -> None:
    out = export_safetensors(run, tmp_path / "new" / "pets.safetensors")
    before, after = load_encoder(run.path / "encoder.safetensors"), load_encoder(out)
    assert after.config.data.path == "pets.h5"
    state = after.state_dict()
    assert all((state[name] == value).all() for name, value in before.state_dict().items())
    with pytest.raises(FileExistsError):
        export_safetensors(run, out)


class Hub:
    """Stands in for huggingface_hub: keeps what is uploaded in a folder."""

    def __init__(self, store: Path) -> None:
        self.store, self.calls = store, []
        calls: list[Any] = self.calls

        class HfApi:
            def __init__(self, token: str | None = None) -> None:
                calls.append(("token", token))

            def create_repo(self, repo_id: str, **options: Any) -> None:
                calls.append((repo_id, options))

            def upload_folder(self, repo_id: str, folder_path: str, repo_type: str) -> str:
                shutil.copytree(folder_path, store / repo_id)
                return f"commit of {repo_id}"

        self.HfApi = HfApi

    def hf_hub_download(self, repo_id: str, filename: str, revision: str | None = None) -> str:
        if not (self.store / repo_id).exists():
            raise OSError("404")
        self.calls.append((repo_id, filename, revision))
        return str(self.store / repo_id / filename)


def test_push_and_fetch(run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "store")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    out = export_hub(run, tmp_path / "out")
    assert push(out, "owner/pets", private=True, token="t") == "commit of owner/pets"
    assert ("token", "t") in hub.calls
    (options,) = [call[1] for call in hub.calls if call[0] == "owner/pets"]
    assert options == {"repo_type": "model", "private": True, "exist_ok": True}
    text = (tmp_path / "store/owner/pets/README.md").read_text()
    assert 'from_pretrained("owner/pets")' in text and "OWNER/NAME" not in text
    monkeypatch.chdir(tmp_path)
    assert from_pretrained("owner/pets", revision="v1").dim == 24
    assert hub.calls[-1] == ("owner/pets", "encoder.safetensors", "v1")
    with pytest.raises(FileNotFoundError, match=r"no folder here.*404"):
        from_pretrained("owner/missing")


def test_remedies(run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export_hub(run, tmp_path / "out")
    with pytest.raises(ValueError, match="owner/name"):
        push(out, "pets")
    with pytest.raises(FileNotFoundError, match=r"no README.md"):
        push(run.path, "owner/pets")
    with pytest.raises(FileNotFoundError, match="no hub name"):
        from_pretrained(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "jepa_modalities\[hub\]"'):
        push(out, "owner/pets")
    assert "OWNER/NAME" in (out / "README.md").read_text()


def test_several_and_windows_paths_keep_their_names(encoder: Make) -> None:
    from jepa_modalities.export.portable import portable
    from jepa_modalities.settings import changed

    given = {"data.path": "/data/a.h5, /data/b.h5", "data.test_path": "C:\\Users\\me\\test.h5"}
    data = portable(changed(encoder().config, given)).data
    assert (data.path, data.test_path) == ("a.h5,b.h5", "test.h5")
    assert portable(encoder().config).encoder == encoder().config.encoder


def test_a_namespace_with_a_path_is_a_run(run: Folder, tmp_path: Path) -> None:
    out = export_hub(SimpleNamespace(path=run.path), tmp_path / "out")
    assert (out / "metrics.json").exists()
