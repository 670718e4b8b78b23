"""The patch dictionary, HOG and pixel targets against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from jepa_modalities.adapters.image.bar import (
    NUM_PATCHES,
    PatchDictionary,
    TokenTargets,
    contrast_normalise,
    default_patch,
    kmeans,
    project_unfolded,
    sample_patches,
    zca,
)
from jepa_modalities.adapters.image.hog import hog_tokens, pixels_tokens


def textures(count: int, channels: int = 3, side: int = 12, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, side // 3, side // 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noise = torch.rand(count, channels, side, side, generator=generator)
    return (255 * (0.8 * smooth + 0.2 * noise)).round().to(torch.uint8)


@pytest.fixture(scope="module")
def fitted() -> PatchDictionary:
    return PatchDictionary.fit(textures(40), num_centroids=16, patch=4, seed=1)


def whiten_patch(dictionary: PatchDictionary, patch: np.ndarray) -> np.ndarray:
    """One patch (channels, side, side) -> whitened, from the formula."""
    x = patch.astype(np.float64).flatten()
    x = (x - x.mean()) / math.sqrt(x.var() + 10)
    matrix = dictionary.whitening.flatten(1).double().numpy()
    white: np.ndarray = matrix @ x - dictionary.offset.double().numpy()
    return white


def triangle(dictionary: PatchDictionary, image: np.ndarray) -> np.ndarray:
    """Activations (K, rows, columns) of one image (channels, height, width) by plain loops."""
    side, centroids = dictionary.patch, dictionary.centroids.double().numpy()
    rows, columns = image.shape[1] - side + 1, image.shape[2] - side + 1
    result = np.zeros((len(centroids), rows, columns))
    for top in range(rows):
        for left in range(columns):
            white = whiten_patch(dictionary, image[:, top : top + side, left : left + side])
            distance = [math.sqrt(((white - centre) ** 2).sum()) for centre in centroids]
            mean = sum(distance) / len(distance)
            result[:, top, left] = [max(0.0, mean - d) for d in distance]
    return result


def test_activations_equal_plain_loops(fitted: PatchDictionary) -> None:
    images = textures(2, seed=5)
    images[1, :, :6] = 77  # a flat part: its contrast is zero
    found = fitted.activations(images)
    assert found.shape == (2, 16, 9, 9)
    for row in range(2):
        wanted = triangle(fitted, images[row].numpy())
        assert wanted.max() > 0.5
        np.testing.assert_allclose(found[row].numpy(), wanted, atol=2e-4)
    assert torch.equal(found, fitted.activations(images.float()))


def test_the_kernel_holds_whitening_and_mean() -> None:
    """Against whitening as it is defined: (normalised - mean) @ ZCA, not folded."""
    images = textures(30)
    generator = Generator().manual_seed(0)
    patches = contrast_normalise(sample_patches(images, 3, NUM_PATCHES, generator))
    mean, matrix = zca(patches)
    dictionary = PatchDictionary.fit(images, 4, 3, seed=0)
    new = textures(1, seed=9)[0, :, 2:5, 4:7]
    plain = (contrast_normalise(new.float().flatten()[None]) - mean) @ matrix
    np.testing.assert_allclose(whiten_patch(dictionary, new.numpy()), plain[0].numpy(), atol=1e-4)


def test_activations_ignore_autocast_and_the_route(fitted: PatchDictionary) -> None:
    images = textures(3, seed=5)
    wanted = fitted.activations(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted.activations(images), wanted)
    x = images.float() - 127.5
    other = project_unfolded(x, fitted.whitening)
    torch.testing.assert_close(
        other, torch.nn.functional.conv2d(x, fitted.whitening), atol=1e-2, rtol=1e-4
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_the_cpu_and_repeats(fitted: PatchDictionary) -> None:
    images = textures(40)
    moved = PatchDictionary(16, 4, 3).cuda()
    moved.load_state_dict(fitted.state_dict())
    difference = moved.activations(images.cuda()).cpu() - fitted.activations(images)
    assert difference.abs().max() < 0.02
    first, again = (PatchDictionary.fit(images.cuda(), 16, 4, 1) for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)


def test_features_sum_over_quadrants(fitted: PatchDictionary) -> None:
    images = textures(3, seed=6)
    found = fitted.features(images)
    assert found.shape == (3, 64)
    for row in range(3):
        active = triangle(fitted, images[row].numpy())
        sums = np.zeros((4, 16))
        for top in range(9):
            for left in range(9):
                sums[2 * (top >= 5) + (left >= 5)] += active[:, top, left]
        np.testing.assert_allclose(found[row].numpy(), sums.flatten(), atol=5e-3)


@pytest.mark.parametrize("patch", [3, 4])
def test_token_targets_average_each_pixels_patch(patch: int) -> None:
    dictionary = PatchDictionary.fit(textures(30), 8, patch)
    images = textures(2, seed=7)
    found = dictionary.token_targets(images, (4, 3))
    assert found.shape == (2, 12, 8)
    before = patch // 2
    for row in range(2):
        image = images[row].numpy()
        mirrored = np.pad(image, ((0, 0), *[(before, patch - 1 - before)] * 2), mode="reflect")
        active = triangle(dictionary, mirrored)
        assert active.shape == (8, 12, 12)
        wanted = np.zeros((12, 8))
        for y in range(12):
            for x in range(12):
                wanted[(y // 3) * 3 + x // 4] += active[:, y, x] / 12
        np.testing.assert_allclose(found[row].numpy(), wanted, atol=2e-4)


def test_chunks_change_nothing(fitted: PatchDictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    images = textures(7, seed=8)
    whole, tokens = fitted.features(images), fitted.token_targets(images, (4, 4))
    monkeypatch.setattr(fitted, "_chunks", lambda x: iter(x.split(2)))
    torch.testing.assert_close(fitted.features(images), whole)
    torch.testing.assert_close(fitted.token_targets(images, (4, 4)), tokens)


def test_same_seed_same_dictionary() -> None:
    images = textures(20)
    first, again, other = (PatchDictionary.fit(images, 8, 3, seed) for seed in (2, 2, 3))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.centroids, other.centroids)


def test_zca_gives_identity_covariance() -> None:
    generator = Generator().manual_seed(0)
    mixing = (
        torch.randn(6, 6, generator=generator) * 30
    )  # so large that the floor of 0.1 is nothing
    rows = torch.randn(5000, 6, generator=generator) @ mixing + 3
    mean, matrix = zca(rows)
    white = ((rows - mean) @ matrix).double()
    covariance = white.T @ white / len(white)
    assert (covariance - torch.eye(6)).abs().max() < 0.01
    assert torch.allclose(matrix, matrix.T, atol=1e-6)  # zero phase: symmetric


def test_kmeans_finds_clusters_and_reseeds_empty_ones() -> None:
    generator = Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    rows = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    found = kmeans(rows, 3, 50, Generator().manual_seed(1))
    nearest = torch.cdist(centres, found).argmin(1)
    plain = torch.stack([rows[50 * n : 50 * n + 50].mean(0) for n in range(3)])
    torch.testing.assert_close(found[nearest], plain)
    with_twins = torch.cat([torch.zeros(99, 2), torch.tensor([[5.0, 5.0]])])
    found = kmeans(with_twins, 2, 200, Generator().manual_seed(0))  # both start on the twins
    assert sorted(found.sum(1).tolist()) == [0.0, 10.0]
    with pytest.raises(ValueError, match="8 centroids need as many patches, found 5"):
        kmeans(torch.zeros(5, 2), 8, 3, generator)


def test_token_targets_are_white_and_come_back(fitted: PatchDictionary) -> None:
    images = textures(60, seed=3)
    second = PatchDictionary.fit(images, 12, 3)
    targets = TokenTargets.fit([fitted, second], images, (4, 4), dim=10)
    found = targets(images)
    assert found.shape == (60, 16, 10) and targets.dim == 10
    rows = found.flatten(0, 1).double()
    assert rows.mean(0).abs().max() < 1e-3
    covariance = rows.T @ rows / len(rows)
    assert (covariance - torch.eye(10)).abs().max() < 0.01
    joined = torch.cat([d.token_targets(images, (4, 4)) for d in (fitted, second)], -1)
    spectrum = np.linalg.eigvalsh(np.cov(joined.flatten(0, 1).double().numpy().T))
    assert targets.explained.item() == pytest.approx(
        spectrum[-10:].sum() / spectrum.sum(), abs=1e-4
    )
    state = {name: value.clone() for name, value in targets.state_dict().items()}
    assert all(value.is_contiguous() for value in state.values())
    again = TokenTargets.from_state(state, (4, 4))
    assert torch.equal(again(images), found)
    assert not list(targets.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(targets(images), found)
    alone = TokenTargets.fit(fitted, images, (4, 4), dim=16)
    assert alone(images[:2]).shape == (2, 16, 16)


def test_dictionary_state_round_trip(fitted: PatchDictionary) -> None:
    copy = PatchDictionary(16, 4, 3)
    copy.load_state_dict(fitted.state_dict())
    images = textures(2)
    assert torch.equal(copy.features(images), fitted.features(images))


def test_wrong_sizes_are_named(fitted: PatchDictionary) -> None:
    images = textures(4)
    with pytest.raises(ValueError, match="patch = 13 does not fit into images of 12 x 12 pixels"):
        PatchDictionary.fit(images, 8, 13)
    with pytest.raises(ValueError, match=r"shape \(3, 12, 12\); expected \(images, channels"):
        fitted.features(images[0])
    with pytest.raises(ValueError, match="grid of 5 x 4 tokens does not divide images of 12 x 12"):
        fitted.token_targets(images, (5, 4))
    with pytest.raises(ValueError, match=r"target\.dim = 17 is more than the 16 centroids"):
        TokenTargets.fit(fitted, images, (4, 4), dim=17)
    assert [default_patch(side, side) for side in (2, 8, 32)] == [2, 3, 6]


def test_hog_equals_plain_loops() -> None:
    images = textures(2, channels=2, seed=4)
    images[1, 0, :7, :8] = 9  # no gradient inside the first token
    found = hog_tokens(images, (2, 3), bins=5)
    assert found.shape == (2, 6, 10)
    for row in range(2):
        wanted = np.zeros((6, 2, 5))
        for channel in range(2):
            x = np.pad(images[row, channel].double().numpy() / 255, 1, mode="reflect")
            for top in range(12):
                for left in range(12):
                    across = x[top + 1, left + 2] - x[top + 1, left]
                    down = x[top + 2, left + 1] - x[top, left + 1]
                    angle = math.atan2(down, across) % math.pi
                    place = min(int(angle / math.pi * 5), 4)
                    token = (top // 6) * 3 + left // 4
                    wanted[token, channel, place] += math.hypot(across, down)
        length = np.sqrt((wanted**2).sum(-1, keepdims=True))
        wanted = np.divide(wanted, length, out=np.zeros_like(wanted), where=length > 0)
        np.testing.assert_allclose(found[row].numpy(), wanted.reshape(6, 10), atol=1e-4)
    assert not found[1, 0, :5].any() and found[1, 0, 5:].any()


def test_hog_ignores_contrast() -> None:
    images = textures(1).float()
    torch.testing.assert_close(hog_tokens(images, (3, 3)), hog_tokens(images / 2 + 9, (3, 3)))


def test_pixels_equal_plain_loops() -> None:
    images = textures(2, seed=2)
    images[0, :, :4, :4] = 50
    for normalise in (True, False):
        found = pixels_tokens(images, 4, normalise)
        assert found.shape == (2, 9, 48)
        for row in range(2):
            for token in range(9):
                top, left = 4 * (token // 3), 4 * (token % 3)
                patch = images[row, :, top : top + 4, left : left + 4].double().numpy() / 255
                wanted = patch.transpose(1, 2, 0).flatten()
                if normalise:
                    wanted = (wanted - wanted.mean()) / math.sqrt(wanted.var(ddof=1) + 1e-6)
                np.testing.assert_allclose(found[row, token].numpy(), wanted, atol=1e-3)
    with pytest.raises(ValueError, match="patch = 5 does not divide images of 12 x 12"):
        pixels_tokens(images, 5)
