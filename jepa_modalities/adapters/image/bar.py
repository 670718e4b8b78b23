"""The bar for images: a dictionary of whitened patches, without any gradient learning.

Coates, Lee & Ng (2011), "An Analysis of Single-Layer Networks in Unsupervised Feature Learning",
sections 3 and 4. Three roles: the control to beat (`features`), a further input to the probe, and a
fixed target of masked prediction that cannot collapse (`TokenTargets`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from jepa_modalities.adapters.whitening import whitening
from jepa_modalities.core.precision import full_precision

VARIANCE_FLOOR = 10.0  # added to a patch's variance on the 0..255 scale (section 3.2.1)
EIGENVALUE_FLOOR = 0.1  # added to the eigenvalues in ZCA whitening (section 3.2.1)
NUM_PATCHES = 100_000
NUM_ITERATIONS = 15


def default_patch(height: int, width: int) -> int:
    """Side of the patches for images of this size, pixels.

    6 as published for 32 x 32; 3 below 16 pixels (best of 3, 4, 5 on the held-out digits).
    """
    return 6 if min(height, width) >= 16 else min(3, height, width)


class PatchDictionary(nn.Module):
    """K centroids of contrast-normalised, ZCA-whitened patches with the triangle activation.

    Only buffers, which together say everything: a state dict makes the same dictionary again.

    Args:
        num_centroids: K.
        patch: side of a patch, pixels.
        channels: of the images.
    """

    whitening: Tensor
    offset: Tensor
    centroids: Tensor

    def __init__(self, num_centroids: int, patch: int, channels: int) -> None:
        super().__init__()
        features = channels * patch**2
        self.register_buffer("whitening", torch.zeros(features, channels, patch, patch))
        self.register_buffer("offset", torch.zeros(features))
        self.register_buffer("centroids", torch.zeros(num_centroids, features))

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return self.whitening.shape[-1]

    @property
    def num_centroids(self) -> int:
        """K."""
        return self.centroids.shape[0]

    @classmethod
    @torch.no_grad()
    def fit(
        cls, images: Tensor, num_centroids: int = 400, patch: int | None = None, seed: int = 0
    ) -> PatchDictionary:
        """Learn whitening and centroids from random patches, on the device of the images.

        Args:
            images: 0..255, uint8 or float, (images, channels, height, width).
            num_centroids: K.
            patch: side, pixels; `default_patch` if not given.
            seed: of the patches and of k-means.

        Raises:
            ValueError: images of another shape, or a patch larger than the images.
        """
        check_images(images)
        channels, height, width = images.shape[1:]
        patch = default_patch(height, width) if patch is None else patch
        if not 1 <= patch <= min(height, width):
            raise ValueError(
                f"patch = {patch} does not fit into images of {height} x {width} pixels; "
                f"choose 1 to {min(height, width)}"
            )
        generator = Generator().manual_seed(seed)
        patches = contrast_normalise(sample_patches(images, patch, NUM_PATCHES, generator))
        mean, whitening = zca(patches)
        patches = (patches - mean) @ whitening
        dictionary = cls(num_centroids, patch, channels).to(images.device)
        # The whitening sees patches minus their own mean: folded into the kernel, so that one
        # convolution of the image does it all but the division by the contrast.
        kernel = whitening - whitening.mean(0, keepdim=True)
        dictionary.whitening.copy_(kernel.T.reshape(dictionary.whitening.shape))
        dictionary.offset.copy_(mean @ whitening)
        dictionary.centroids.copy_(kmeans(patches, num_centroids, NUM_ITERATIONS, generator))
        return dictionary

    @torch.no_grad()
    def activations(self, images: Tensor) -> Tensor:
        """Triangle activation max(0, mean distance - distance) of every patch (section 3.2.2).

        Args:
            images: 0..255, uint8 or float, (batch, channels, height, width).

        Returns:
            (batch, K, height - patch + 1, width - patch + 1), float32.
        """
        with full_precision(images.device.type):  # distances need full precision
            return self._activations(images.float() - 127.5)

    def _activations(self, x: Tensor) -> Tensor:
        size = self.patch
        mean = F.avg_pool2d(x.mean(1, keepdim=True), size, 1)
        power = F.avg_pool2d(x.square().mean(1, keepdim=True), size, 1)
        contrast = (power - mean.square()).clamp_(min=0).add_(VARIANCE_FLOOR).rsqrt_()
        project = project_unfolded if x.is_cuda else F.conv2d
        white = project(x, self.whitening).mul_(contrast).sub_(self.offset.view(-1, 1, 1))
        batch, _, rows, columns = white.shape
        white = white.flatten(2)
        # |w - c|^2 = |w|^2 - 2 w c + |c|^2 as one product per image.
        norm = white.square().sum(1, keepdim=True)
        weight = torch.cat([-2 * self.centroids, torch.ones_like(self.centroids[:, :1])], 1)
        bias = self.centroids.square().sum(1).view(1, -1, 1)
        distance = torch.baddbmm(
            bias, weight.expand(batch, -1, -1), torch.cat([white, norm], dim=1)
        )
        distance = distance.clamp_(min=0).sqrt_()
        closer = distance.neg_().add_(-distance.mean(1, keepdim=True)).relu_()
        return closer.view(batch, -1, rows, columns)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Activations summed over the image's four quadrants (section 3.2.3).

        Args:
            images: 0..255, uint8 or float, (batch, channels, height, width).

        Returns:
            (batch, 4 K): all centroids of the upper left, upper right, lower left, lower right.
        """
        return torch.cat([self._quadrants(part) for part in self._chunks(images)])

    def _quadrants(self, images: Tensor) -> Tensor:
        active = self.activations(images)
        middle = [(extent + 1) // 2 for extent in active.shape[-2:]]
        halves = active[..., : middle[0], :].sum(2), active[..., middle[0] :, :].sum(2)
        parts = [part.sum(2) for half in halves for part in half.tensor_split([middle[1]], dim=2)]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def token_targets(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Activations averaged over the pixels of each token.

        Every pixel has the patch whose centre it is (for even sides the pixel right below the
        centre); the image is continued by reflection at its borders.

        Args:
            images: 0..255, uint8 or float, (batch, channels, height, width).
            grid: tokens (rows, columns).

        Returns:
            (batch, tokens, K).

        Raises:
            ValueError: the grid does not divide the image.
        """
        cell = cell_size(images, grid)
        before, after = self.patch // 2, (self.patch - 1) // 2
        parts = []
        for part in self._chunks(images):
            padded = F.pad(part.float(), (before, after, before, after), mode="reflect")
            active = F.avg_pool2d(self.activations(padded), cell)
            parts.append(active.flatten(2).transpose(1, 2))
        return torch.cat(parts)

    def _chunks(self, images: Tensor) -> Iterator[Tensor]:
        """Parts whose activations stay in the cache on a CPU, in modest memory on a GPU."""
        check_images(images)
        budget = 2**26 if images.is_cuda else 2**21
        per_image = self.num_centroids * (images.shape[-1] + self.patch) ** 2
        return iter(torch.split(images, max(1, budget // per_image)))


class TokenTargets(nn.Module):
    """Fixed targets: dictionary activations per token, PCA-whitened to a few dimensions.

    Args:
        dictionaries: of one or several patch sizes; their activations are joined.
        grid: tokens (rows, columns).
        dim: whitened dimensions.
    """

    mean: Tensor
    projection: Tensor
    explained: Tensor

    def __init__(
        self, dictionaries: Sequence[PatchDictionary], grid: tuple[int, int], dim: int
    ) -> None:
        super().__init__()
        width = sum(dictionary.num_centroids for dictionary in dictionaries)
        self.dictionaries, self.grid = nn.ModuleList(dictionaries), grid
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.zeros(width, dim))
        self.register_buffer("explained", torch.zeros(()))

    @property
    def dim(self) -> int:
        """Whitened dimensions."""
        return self.projection.shape[1]

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        dictionaries: PatchDictionary | Sequence[PatchDictionary],
        images: Tensor,
        grid: tuple[int, int],
        dim: int = 64,
    ) -> TokenTargets:
        """Fit the whitening on all tokens of `images` (a few thousand are enough).

        Args:
            dictionaries: one, or several of different patch sizes.
            images: 0..255, uint8 or float, (images, channels, height, width).
            grid: tokens (rows, columns).
            dim: how many principal dimensions; the share of variance they hold is `explained`.

        Raises:
            ValueError: more dimensions than centroids, or a grid that does not divide the image.
        """
        if isinstance(dictionaries, PatchDictionary):
            dictionaries = [dictionaries]
        targets = cls(dictionaries, grid, dim).to(images.device)
        rows = (targets.raw(part).flatten(0, 1) for part in torch.split(images, 256))
        mean, projection, explained = whitening(rows, len(targets.mean), dim, "centroids")
        targets.mean.copy_(mean)
        targets.projection.copy_(projection)
        targets.explained.copy_(explained)
        return targets

    @classmethod
    def from_state(cls, state: dict[str, Tensor], grid: tuple[int, int]) -> TokenTargets:
        """The targets that `state_dict` describes."""
        dictionaries: list[PatchDictionary] = []
        while (name := f"dictionaries.{len(dictionaries)}") + ".whitening" in state:
            _, channels, patch, _ = state[f"{name}.whitening"].shape
            size = len(state[f"{name}.centroids"])
            dictionaries.append(PatchDictionary(size, patch, channels))
        targets = cls(dictionaries, grid, state["projection"].shape[1])
        targets.load_state_dict(state)
        return targets

    def raw(self, images: Tensor) -> Tensor:
        """Joined activations per token before whitening, (batch, tokens, centroids)."""
        parts = []
        for dictionary in self.dictionaries:
            assert isinstance(dictionary, PatchDictionary)
            parts.append(dictionary.token_targets(images, self.grid))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """0..255 images (batch, channels, height, width) -> (batch, tokens, dim), unit variance."""
        with full_precision(images.device.type):
            result: Tensor = (self.raw(images) - self.mean) @ self.projection
        return result


def project_unfolded(x: Tensor, kernel: Tensor) -> Tensor:
    """`F.conv2d(x, kernel)` for kernels of zero mean, accurate in TF32, which GPUs convolve in.

    Patches are centred first, so that rounding is relative to their contrast, not their brightness.
    """
    size = kernel.shape[-1]
    patches = F.unfold(x, size)
    white = kernel.flatten(1) @ (patches - patches.mean(1, keepdim=True))
    return white.view(len(x), len(kernel), x.shape[2] - size + 1, x.shape[3] - size + 1)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is (images, channels, height, width)."""
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (images, channels, height, width)"
        )


def cell_size(images: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Pixels per token (rows, columns).

    Raises:
        ValueError: images of another shape, or a grid that does not divide them.
    """
    check_images(images)
    height, width = images.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise ValueError(
            f"a grid of {grid[0]} x {grid[1]} tokens does not divide images of {height} x {width} "
            f"pixels; choose a patch that divides both sides"
        )
    return height // grid[0], width // grid[1]


def sample_patches(images: Tensor, patch: int, count: int, generator: Generator) -> Tensor:
    """Random patches, float, (count, channels * patch * patch)."""
    height, width = images.shape[-2:]
    spans = (len(images), height - patch + 1, width - patch + 1)
    drawn = [torch.randint(n, (count, 1, 1, 1), generator=generator) for n in spans]
    image, top, left = (index.to(images.device) for index in drawn)
    step = torch.arange(patch, device=images.device)
    channel = torch.arange(images.shape[1], device=images.device).view(-1, 1, 1)
    return images[image, channel, top + step.view(-1, 1), left + step].flatten(1).float()


def contrast_normalise(patches: Tensor) -> Tensor:
    """Subtract each patch's mean, divide by sqrt(variance + 10); (count, features)."""
    variance, mean = torch.var_mean(patches, dim=1, correction=0, keepdim=True)
    return (patches - mean) * (variance + VARIANCE_FLOOR).rsqrt()


def zca(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (features,) and ZCA matrix (features, features) with eigenvalues + 0.1."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T, correction=0).double())
    scale = (values.clamp_min(0) + EIGENVALUE_FLOOR).rsqrt()
    return mean, ((vectors * scale) @ vectors.T).to(rows.dtype)


def kmeans(rows: Tensor, num_centroids: int, iterations: int, generator: Generator) -> Tensor:
    """Lloyd's algorithm from random rows; a centroid without rows is put on a random row.

    Sums are matrix products, so that a GPU gives the same centroids each time.

    Args:
        rows: (count, features).
        num_centroids: K.
        iterations: at most so many.
        generator: of the starting and re-seeding rows (CPU).

    Returns:
        (K, features).

    Raises:
        ValueError: fewer rows than centroids.
    """
    if num_centroids > len(rows):
        raise ValueError(f"{num_centroids} centroids need as many patches, found {len(rows)}")
    order = torch.randperm(len(rows), generator=generator)[:num_centroids]
    centroids = rows[order.to(rows.device)]
    numbers = torch.arange(num_centroids, device=rows.device)
    nearest = torch.empty(0)
    for _ in range(iterations):
        half_norm = centroids.square().sum(1) / 2
        sums, counts = torch.zeros_like(centroids), torch.zeros_like(half_norm)
        chosen = []
        for part in torch.split(rows, 4096):
            index = torch.addmm(half_norm, part, centroids.T, alpha=-1).argmin(1)
            member = (index[:, None] == numbers).to(rows.dtype)
            sums.addmm_(member.T, part)
            counts += member.sum(0)
            chosen.append(index)
        last, nearest = nearest, torch.cat(chosen)
        if torch.equal(last, nearest):
            break
        fresh = torch.randint(len(rows), (num_centroids,), generator=generator).to(rows.device)
        centroids = torch.where(
            counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], rows[fresh]
        )
    return centroids
