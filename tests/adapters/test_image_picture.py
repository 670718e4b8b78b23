"""Pictures of an image run: what they compute, checked by plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.colors import to_rgb
from torch import Tensor, nn

from jepa_modalities.adapters.image import picture as pictures
from jepa_modalities.core.batch import Tokens
from jepa_modalities.core.encoder import TokenEncoder
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import SinCosPosition, grid_positions
from jepa_modalities.eval.curve import svg
from jepa_modalities.eval.page import colour

GRID = (2, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(samples: int = 6, channels: int = 1, height: int = 8, width: int = 12) -> Tensor:
    shape = (samples, channels, height, width)
    return torch.randint(0, 256, shape, generator=seeded(), dtype=torch.uint8)


def masks() -> Masks:
    context = torch.tensor([[[0, 5]], [[1, 1]]])
    targets = torch.tensor([[[1, 2], [2, 4]], [[0, 3], [4, 5]]])
    return Masks(context, targets, context_valid=torch.tensor([[[True, True]], [[True, False]]]))


def test_context_map_marks_visible_tokens_only() -> None:
    expected = torch.tensor([[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]).bool()
    assert torch.equal(pictures.context_map(masks(), GRID), expected)
    hidden = Masks(
        torch.tensor([[[0, 1, 2]]]),
        torch.tensor([[[1]]]),
        hidden=torch.tensor([[[False, True, False]]]),
    )
    assert pictures.context_map(hidden, GRID)[0].flatten().tolist() == [1, 0, 1, 0, 0, 0]
    one_by_one = Masks(torch.tensor([[[0], [3]]]), torch.tensor([[[1], [2]]]))
    assert pictures.context_map(one_by_one, GRID, group=1).flatten().nonzero().tolist() == [[3]]


def test_target_colours_average_where_blocks_overlap() -> None:
    veil = pictures.target_colours(masks(), GRID)
    assert veil.shape == (2, *GRID, 4)
    paints = [to_rgb(colour(f"series-{n}")) for n in (1, 2)]
    for sample, blocks in enumerate(masks().targets.tolist()):
        for token in range(6):
            inside = [paints[b] for b, block in enumerate(blocks) if token in block]
            red, green, blue, alpha = veil[sample].flatten(0, 1)[token].tolist()
            if inside:
                mean = [sum(p[c] for p in inside) / len(inside) for c in range(3)]
                assert (red, green, blue) == pytest.approx(mean, abs=1e-6)
                assert alpha == pytest.approx(0.6)
            else:
                assert (red, green, blue, alpha) == pytest.approx((0.56, 0.56, 0.56, 0.5))


def test_pca_colours_are_the_leading_components() -> None:
    """Hand-made features with known principal axes: the columns of a rotation."""
    coordinates = torch.randn(40, 4, generator=seeded(), dtype=torch.float64)
    coordinates -= coordinates.mean(0)
    coordinates = torch.linalg.qr(coordinates)[0] * torch.tensor([9.0, 5.0, 2.0, 0.1])
    rotation = torch.linalg.qr(torch.randn(7, 4, generator=seeded(1), dtype=torch.float64))[0]
    features = (coordinates @ rotation.T).view(5, 8, 7) + 3.0
    found = pictures.pca_colours(features).flatten(0, 1)
    assert found.shape == (40, 3) and found.min() == 0 and found.max() == 1
    for component in range(3):
        values = sorted(coordinates[:, component].tolist())
        low, high = (quantile(values, share) for share in (0.01, 0.99))
        scaled = [(v - low) / (high - low) for v in coordinates[:, component].tolist()]
        right = torch.tensor(scaled).clamp(0, 1)
        error = min(
            float((found[:, component] - option).abs().max()) for option in (right, 1 - right)
        )
        assert error < 1e-5


def quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def test_pca_colours_do_not_flip_and_survive_collapse() -> None:
    features = torch.randn(3, 6, 5, generator=seeded())
    assert torch.equal(pictures.pca_colours(features), pictures.pca_colours(features.clone()))
    assert torch.equal(pictures.pca_colours(torch.full((3, 6, 5), 2.5)), torch.full((3, 6, 3), 0.5))
    narrow = pictures.pca_colours(torch.randn(2, 6, 2, generator=seeded()))
    assert torch.equal(narrow[..., 2], torch.full((2, 6), 0.5)) and narrow[..., 0].std() > 0.1


def test_attention_weights_average_queries_and_heads() -> None:
    maps = torch.rand(2, 3, 6, 6, generator=seeded()).softmax(dim=-1)
    found = pictures.attention_weights(maps, GRID)
    for sample in range(2):
        for key in range(6):
            total = sum(float(maps[sample, h, q, key]) for h in range(3) for q in range(6))
            row, column = divmod(key, 3)
            # Rows sum to 1, so the mean over heads and queries is a share; uniform is 1 / 6.
            assert float(found[sample, row, column]) == pytest.approx(total / 18 * 6, rel=1e-5)
    uniform = torch.full((1, 2, 6, 6), 0.1)  # part of the attention goes to register tokens
    assert pictures.attention_weights(uniform, GRID).flatten().tolist() == pytest.approx([1.0] * 6)


def test_nearest_by_cosine_without_the_query() -> None:
    features = torch.randn(9, 4, generator=seeded())
    features[3] = 7 * features[0]  # the same direction at another length
    found = pictures.nearest(features, [0, 5], k=3)
    assert found[0, 0] == 3
    for place, query in enumerate((0, 5)):
        cosine = {
            other: float(
                features[query] @ features[other] / features[query].norm() / features[other].norm()
            )
            for other in range(9)
            if other != query
        }
        assert found[place].tolist() == sorted(cosine, key=lambda o: -cosine[o])[:3]
    assert pictures.nearest(features, [0], k=99).shape == (1, 8)


def encoder(seed: int) -> TokenEncoder:
    torch.manual_seed(seed)
    return TokenEncoder(nn.Linear(16, 16), SinCosPosition(16), 16, 2, 2, num_prefix=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_pictures_draw(channels: int) -> None:
    shown = images(channels=channels)
    tokens = Tokens(torch.randn(6, 6, 16, generator=seeded()), grid_positions(*GRID))
    encoders = {"encoder": encoder(0).train(), "untrained": encoder(1).eval()}
    labels = ["cat", "dog", "cat", "<b>", "$x$", "dog"]
    made = pictures.image_pictures(shown, tokens, GRID, encoders, masks(), labels, num_shown=2)
    assert list(made) == ["masks", "pca", "attention", "neighbours"]
    assert encoders["encoder"].training and not encoders["untrained"].training
    for name, item in made.items():
        assert item.title and item.caption
        code = svg(item.image, name, item.title)  # type: ignore[arg-type]
        assert code.startswith("<svg") and "data:image/png;base64," in code
        headings = ["context", "targets"] if name == "masks" else ["encoder", "untrained"]
        assert all(f">{heading}</text>" in code for heading in headings)
    neighbours = svg(made["neighbours"].image, "n", "n")  # type: ignore[arg-type]
    assert ">cat</text>" in neighbours and "<b>" not in neighbours


def test_encoders_are_compared_on_one_scale() -> None:
    """A uniform map must look uniform beside a peaked one."""
    peaked = torch.zeros(1, 1, 6, 6)
    peaked[..., 0] = 1.0
    maps = {"encoder": peaked, "untrained": torch.full((1, 1, 6, 6), 1 / 6)}
    figure = pictures.attention_picture(images(1), maps, GRID).image
    heat = [
        axes.images[1].get_clim()
        for axes in figure.axes  # type: ignore[union-attr]
        if len(axes.images) == 2
    ]
    assert len(heat) == 2 and heat[0] == heat[1] and heat[0][0] == 0
    flat = pictures.attention_picture(images(1), {"untrained": maps["untrained"]}, GRID).image
    limits = [a.images[1].get_clim() for a in flat.axes if len(a.images) == 2]  # type: ignore[union-attr]
    assert limits == [(0, 2.0)]


def test_neighbour_frames_tell_same_labels_from_others() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    made = pictures.neighbour_picture(images(4), {"encoder": features}, [0], [7, 7, 8, 8], k=2)
    frames = {
        axes.get_xlabel(): axes.spines["left"].get_linestyle()
        for axes in made.image.axes  # type: ignore[union-attr]
        if axes.spines["left"].get_visible()
    }
    assert set(frames) == {"7", "8"} and frames["7"] == "-" and frames["8"] != "-"
    bare = pictures.neighbour_picture(images(4), {"encoder": features}, [0], k=2)
    assert "frame" not in bare.caption


def test_large_images_are_shrunk() -> None:
    large = pictures._displayed(images(1, 3, 300, 600))
    assert large.shape == (1, 80, 160, 3) and large.min() >= 0 and large.max() <= 1
    grey = images(1, 1, 4, 4)
    small = pictures._displayed(grey)
    assert small.shape == (1, 4, 4, 3)
    assert float(small[0, 2, 1, 2]) == pytest.approx(int(grey[0, 0, 2, 1]) / 255)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4).byte(), torch.zeros(2, 2, 4, 4).byte()],
)
def test_wrong_images_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 of \(samples, 1 or 3, height, width\)"):
        pictures.mask_picture(wrong, masks(), GRID)
