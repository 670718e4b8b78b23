"""One short run under torchrun: `elastic.py FOLDER [DEATH ...]`.

The second process kills itself in step DEATH, one for every start; without any it lives.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from killed import config_of, no_report

from jepa_modalities import api
from jepa_modalities.settings import changed
from jepa_modalities.train.engine import Trainer


def main(folder: Path, deaths: list[int]) -> None:
    """Train; die where asked."""
    torch.set_num_threads(1)
    api.finish = no_report
    optimise = Trainer._optimise

    def mortal(self: Trainer, step: int, *args: Any) -> Any:
        restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if self.peers.rank == 1 and deaths[restarts : restarts + 1] == [step]:
            os.kill(os.getpid(), signal.SIGKILL)
        return optimise(self, step, *args)

    Trainer._optimise = mortal  # type: ignore[method-assign]
    config = changed(config_of("image"), {"train.checkpoint_every": 4})
    api.pretrain(config, folder, quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
