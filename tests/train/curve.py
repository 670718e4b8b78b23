"""Loss curves of tiny runs, in one process or (started by torchrun) in several.

`curve.py OUT NAME ...` makes a run folder `OUT/<name>-<processes>` for every named run below.
A run whose loss is not finite leaves `error-<rank>.json` there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jepa_modalities.adapters.image.adapter import ImageAdapter
from jepa_modalities.adapters.image.config import AugmentConfig, ImageConfig, ImageData
from jepa_modalities.config import (
    EncoderConfig,
    MaskConfig,
    PredictorConfig,
    RegulariserConfig,
    TargetConfig,
    TrainConfig,
)
from jepa_modalities.core.batch import Batch
from jepa_modalities.core.masking import Masks
from jepa_modalities.train.distributed import processes
from jepa_modalities.train.engine import NonFiniteLoss, Trainer
from jepa_modalities.train.log import Log
from jepa_modalities.train.state import model_state

STEPS = 20


def tiny(**changes: Any) -> ImageConfig:
    """Digits, 16 tokens, width 16, 20 steps that are all logged."""
    base = ImageConfig(
        data=ImageData(path="digits", size=(8, 8), channels=1, patch=2, limit=200),
        encoder=EncoderConfig(dim=16, depth=2, heads=2),
        predictor=PredictorConfig(width=16, depth=1),
        mask=MaskConfig(kind="random"),
        augment=AugmentConfig(flip=True, shift=0.1),
        train=TrainConfig(
            steps=STEPS,
            batch_size=16,
            lr=3e-3,
            warmup_steps=3,
            log_every=1,
            precision="fp32",
            device="cpu",
            clip=1.0,
        ),
    )
    return replace(base, **changes)


VICREG = RegulariserConfig("vicreg", "predicted", (16, 16), weight=0.1)
VIEWS = AugmentConfig(shift=0.1, rotate=10, noise=0.1)
TWO_VIEWS = tiny(
    mask=MaskConfig(kind="none"),
    encoder=EncoderConfig(dim=16, depth=2, heads=2, stem="conv"),
    views=2,
    view_augment=VIEWS,
    regulariser=RegulariserConfig("vicreg", "views", (16, 16), (1.0, 1.0, 0.2), weight=1.0),
)
RUNS: dict[str, ImageConfig] = {
    "ijepa": tiny(mask=MaskConfig(kind="block", target_scale=(0.1, 0.2))),
    "cjepa": tiny(regulariser=VICREG),
    "views": TWO_VIEWS,
    "sigreg": tiny(
        regulariser=RegulariserConfig("sigreg", "predicted", (16, 16), (1.0, 1.0), weight=0.1)
    ),
    "joint": tiny(
        target=TargetConfig(kind="hog", handover=(0.2, 0.6)),
        views=2,
        view_augment=VIEWS,
        view_keep=0.5,
        regulariser=RegulariserConfig("vicreg", "views", (16, 16), (1.0, 1.0, 0.2), weight=0.1),
    ),
}
RUNS["joint_fsdp"] = replace(RUNS["joint"], train=replace(RUNS["joint"].train, strategy="fsdp"))


for kind in ("ddp", "fsdp"):
    RUNS[f"broken_{kind}"] = replace(
        RUNS["cjepa"],
        train=replace(RUNS["cjepa"].train, strategy=kind, log_every=STEPS, monitor_every=STEPS),
    )
BROKEN = 7  # number of the sample whose tokens are NaN in those runs


class BrokenAdapter(ImageAdapter):
    """One sample is NaN."""

    def feed(self, *args: Any) -> Iterator[tuple[Batch, Masks | None]]:
        for batch, masks in super().feed(*args):
            assert batch.ids is not None
            values = batch.context.values.clone()
            values[batch.ids == BROKEN] = float("nan")
            yield replace(batch, context=replace(batch.context, values=values)), masks


def curve(out: Path, name: str) -> Trainer:
    """Make a run; its log tells the losses."""
    config = RUNS[name]
    with processes("cpu") as peers:
        folder = out / f"{name}-{peers.world}"
        folder.mkdir(parents=True, exist_ok=True)
        peers.barrier()
        kind = BrokenAdapter if name.startswith("broken") else ImageAdapter
        trainer = Trainer(kind(config), config, folder, peers)
        log = Log(folder) if peers.main else None
        try:
            trainer.run(log)
        except NonFiniteLoss as error:
            finite = [bool(t.isfinite().all()) for t in model_state(trainer.jepa).values()]
            told = {"error": str(error), "finite": all(finite)}
            (folder / f"error-{peers.rank}.json").write_text(json.dumps(told))
        finally:
            if log is not None:
                log.close()
        peers.barrier()
        return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes("cpu"):
        for argument in sys.argv[2:]:
            curve(Path(sys.argv[1]), argument)
