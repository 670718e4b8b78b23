"""Only one command at a time works in a run folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepa_modalities.train.checkpoint import steps
from jepa_modalities.train.distributed import Processes, launch, restarted

# A folder without any of these holds no progress: its run failed at the very start.
BEGUN = ("checkpoint", "log.jsonl", "metrics.json")
LOCK = "run.lock"


def taken_up(folder: Path) -> bool:
    """Whether torchrun has restarted the very launch whose run is in the folder."""
    if not restarted():
        return False
    try:
        return (folder / LOCK).read_text(encoding="utf-8") == launch()
    except (OSError, ValueError):
        return False


@contextmanager
def locked(folder: Path, peers: Processes, fresh: bool) -> Iterator[None]:
    """Only one command works in a run folder.

    Args:
        folder: of the run.
        peers: this process among its peers; the first one holds the lock.
        fresh: make the folder; it must not hold a run, other than one that this launch began and
            was restarted in before a first checkpoint.

    Raises:
        RuntimeError: another process holds it.
        FileExistsError: it holds a run already, or is a file.
        OSError: the folder is read-only.
    """
    if not peers.main:
        peers.barrier()
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--out {folder} is a file; name a folder")
    if fresh:
        folder.mkdir(parents=True, exist_ok=True)
    own = taken_up(folder)
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        try:
            # A record lock: unlike with flock, loader processes that outlive a killed run do not
            # keep it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise RuntimeError(
                f"{folder} is in use by another process; wait for it or choose another --out"
            ) from None
        there = [folder / name for name in BEGUN if (folder / name).exists()]
        if fresh and not own and any(path.stat().st_size for path in there):
            begun = "go on with --resume" if steps(folder) else "it has no checkpoint: remove it"
            raise FileExistsError(f"{folder} holds a run already: {begun}, or choose another --out")
        file.truncate(0)
        file.write(launch())
        file.flush()
        peers.barrier()
        yield
