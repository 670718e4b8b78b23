"""A folder ready for the Hugging Face Hub, its upload, and loading from folder or hub."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_modalities.export.card import REPO, model_card
from jepa_modalities.export.encoder import PretrainedEncoder, load_encoder
from jepa_modalities.export.place import ENCODER, HasPath, encoder_file, fresh_folder, optional
from jepa_modalities.export.portable import export_safetensors, portable

CARD = "README.md"


def export_hub(
    run: str | Path | HasPath,
    out: str | Path,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> Path:
    """Write `encoder.safetensors`, `config.json`, `metrics.json` and a model card to a new folder.

    Folders of this machine are left out of the configuration; everything stays offline.

    Args:
        run: a `Run`, its folder, or an encoder file (then without results).
        out: a new or empty folder.
        license: identifier for the card, such as "apache-2.0"; left open if not given.
        datasets: hub names of the training data sets, for the card.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: no encoder.
        FileExistsError: `out` holds something.
    """
    source = encoder_file(run)
    pretrained = load_encoder(source)
    config = portable(pretrained.config)
    # The other files of a folder describe its own encoder only.
    whole = source.name == ENCODER
    metrics = _read(source.parent / "metrics.json") if whole else {}
    environment = _read(source.parent / "env.json") if whole else {}
    parameters = sum(p.numel() for p in pretrained.encoder.parameters())
    card = model_card(config, metrics, environment, parameters, license, datasets)
    with fresh_folder(Path(out)) as folder:
        export_safetensors(source, folder / ENCODER)
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
        shutil.copymode(folder / "config.json", folder / ENCODER)  # safetensors writes 0600
        (folder / CARD).write_text(card, encoding="utf-8")
        if metrics:
            shutil.copyfile(source.parent / "metrics.json", folder / "metrics.json")
    return Path(out)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}; run `jm evaluate` again") from error
    return content


def push(folder: str | Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Upload a folder of `export_hub`; makes the repository where it does not exist.

    The card's placeholder for the repository becomes `repo_id`.

    Args:
        folder: of `export_hub`.
        repo_id: "owner/name".
        private: only for a new repository.
        token: of the hub; the one that `hf auth login` saved if not given.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: the folder has no encoder or no card.
        ValueError: another form of `repo_id`.
        ImportError: the extra `hub` is not installed.
    """
    folder = Path(folder)
    for name in (ENCODER, CARD):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; make the folder with export_hub")
    if not _is_repo(repo_id):
        raise ValueError(f"repo_id = {repo_id!r}; expected the form 'owner/name'")
    hub = optional("huggingface_hub", "hub")
    card = (folder / CARD).read_text(encoding="utf-8")
    (folder / CARD).write_text(card.replace(REPO, repo_id), encoding="utf-8")
    api = hub.HfApi(token=token)
    api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), repo_type="model"))


def _is_repo(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def from_pretrained(
    place: str | Path, revision: str | None = None, device: str = "cpu"
) -> PretrainedEncoder:
    """An encoder from a folder, an encoder file, or the hub; nothing in it is executed.

    Args:
        place: an existing folder or file; else a hub name "owner/name", which needs the network.
        revision: branch, tag or commit on the hub.
        device: where to.

    Raises:
        FileNotFoundError: neither here nor on the hub.
        ImportError: a hub name, but the extra `hub` is not installed.
        ValueError: not an encoder file.
    """
    if Path(place).exists():
        return load_encoder(encoder_file(place), device)
    name = str(place)
    if not _is_repo(name):
        raise FileNotFoundError(f"{name} does not exist and is no hub name of the form owner/name")
    hub = optional("huggingface_hub", "hub")
    try:
        file = hub.hf_hub_download(name, ENCODER, revision=revision)
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        raise FileNotFoundError(
            f"{name} is no folder here, and {ENCODER} could not be fetched from the hub: {error}"
        ) from error
    return load_encoder(Path(file), device)
