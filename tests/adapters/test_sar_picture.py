"""Pictures of SAR runs: what is drawn is what the numbers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jepa_modalities.adapters.base import build_jepa
from jepa_modalities.adapters.sar import picture, source
from jepa_modalities.adapters.sar.adapter import SarAdapter
from jepa_modalities.adapters.sar.config import (
    SarConfig,
    SarData,
    SarEvaluateConfig,
    SarMaskConfig,
    SarTargetConfig,
)
from jepa_modalities.adapters.sar.masker import LocalWindowMasker, RealTokenMasker
from jepa_modalities.config import EncoderConfig, PredictorConfig
from jepa_modalities.eval.page import Picture

CONFIG = SarConfig(
    data=SarData(
        path="synthetic", size=(32, 32), margin=8, patch=8, maps=(), scaling="linear", limit=24
    ),
    encoder=EncoderConfig(dim=16, depth=1, heads=2),
    predictor=PredictorConfig(width=16, depth=1),
    mask=SarMaskConfig(kind="window", num_windows=2),
    target=SarTargetConfig(radii=(2, 3)),
    evaluate=SarEvaluateConfig(enabled=False),
)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def test_token_maps_of_windows_and_of_random_masks() -> None:
    masks = LocalWindowMasker((4, 6), num_windows=2)(2, seeded())
    seen, hidden = picture.token_maps(masks, (4, 6))
    assert masks.hidden is not None
    for chip in (0, 1):
        for group in (0, 1):
            tokens, flags = masks.context[chip, group], masks.hidden[chip, group]
            assert set(seen[chip, group].flatten().nonzero()[:, 0].tolist()) == set(
                tokens[~flags].tolist()
            )
            assert set(hidden[chip, group].flatten().nonzero()[:, 0].tolist()) == set(
                tokens[flags].tolist()
            )
    seen, hidden = picture.token_maps(RealTokenMasker(24, (0.5, 0.5))(2, seeded()), (4, 6))
    assert not (seen & hidden).any() and (seen | hidden).all()


def test_displayed_is_black_on_padding_and_bounded() -> None:
    images = torch.rand(2, 1, 16, 16, generator=seeded())
    images[0, :, :4] = -1.0
    shown = picture.displayed(images)
    assert not shown[0, :4].any() and float(shown.max()) == 1.0 and float(shown.min()) >= 0
    assert torch.isfinite(picture.displayed(torch.zeros(1, 1, 8, 8))).all()


def test_all_pictures_of_a_masked_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SYNTHETIC_CHIPS", {"train": 24, "test": 24})
    adapter = SarAdapter(CONFIG, tmp_path)
    assert set(picture.pictures(adapter, {})) == {"gradients", "masks"}  # nothing trained yet
    folder = tmp_path / "checkpoint" / "step-00000005"
    folder.mkdir(parents=True)
    jepa = build_jepa(CONFIG, adapter)  # type: ignore[arg-type]
    save_file({k: v.clone() for k, v in jepa.state_dict().items()}, folder / "model.safetensors")
    adapter.confusion = {"classes": ["a", "b"], "counts": [[3, 1], [0, 4]]}
    adapter.metrics = {
        "encoder/ridge_10shot/accuracy": 0.8,
        "encoder/ridge_10shot/accuracy_low": 0.7,
        "encoder/ridge_10shot/accuracy_high": 0.9,
        "raw/ridge_10shot/accuracy": 0.5,
        "encoder/ridge_10shot@mean/accuracy": 0.1,
    }
    made = adapter.pictures({})
    assert set(made) == {"gradients", "masks", "prediction", "confusion", "few_labels"}
    assert all(isinstance(item, Picture) and item.caption for item in made.values())
    assert "87.5 % of 8 chips" in made["confusion"].caption


def test_prediction_shows_hidden_pixels_only() -> None:
    images, truth = torch.rand(1, 1, 8, 8), torch.rand(1, 2, 8, 8)
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[0, :4] = True
    made = picture.prediction_picture(images, truth / 2, truth, hidden, (2, 5))
    axes = made.image.axes  # type: ignore[union-attr]
    for spot, maps in ((axes[1], truth[0, 0]), (axes[2], truth[0, 0] / 2), (axes[3], truth[0, 1])):
        shown = spot.images[0].get_array()
        assert (np.ma.getmaskarray(shown) == ~hidden[0].numpy()).all()
        np.testing.assert_allclose(shown[:4].data, maps[:4].numpy())
    assert axes[1].images[0].get_clim() == axes[2].images[0].get_clim()  # one scale for both


def test_no_few_label_picture_without_scores() -> None:
    assert picture.few_label_picture({"encoder/ridge/accuracy": 0.5}) is None


def test_prediction_needs_gradients_as_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SYNTHETIC_CHIPS", {"train": 24, "test": 24})
    config = replace(CONFIG, target=SarTargetConfig(kind="hog"))
    assert picture._prediction(SarAdapter(config)) is None
