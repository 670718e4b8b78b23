"""Predictor: context latents and positions -> features at the target positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents
from jepa_modalities.core.block import Block, initialise, strip_biases
from jepa_modalities.core.encoder import key_padding
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import SinCosPosition


class Predictor(nn.Module):
    """A narrow ViT that fills mask tokens from the context (I-JEPA, section 3).

    Each target block is its own sequence: context tokens + one mask token per target position.

    Args:
        dim: width of the encoder.
        width: width of the predictor (384 in the papers).
        depth: number of blocks (6 for tiny to base, 12 for large and huge, 16 for giant).
        heads: attention heads (the encoder's number in the papers).
        target_dim: width of what is predicted.
        mlp_ratio: hidden width of the MLPs over `width`.
        init: "normal" or "xavier", see `core.block.initialise`.
        rescale: see `core.block.initialise`.
        rescale_by: see `core.block.initialise`.
        bias: biases in linear layers and norms.
        sees_prefix: the encoder's register tokens are part of the context.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        target_dim: int,
        mlp_ratio: float = 4.0,
        init: str = "normal",
        rescale: bool = True,
        rescale_by: str = "layer",
        bias: bool = True,
        sees_prefix: bool = True,
    ) -> None:
        super().__init__()
        self.sees_prefix = sees_prefix
        self.embed = nn.Linear(dim, width)
        self.position = SinCosPosition(width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, target_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        initialise(self, init, rescale, rescale_by)
        if not bias:
            strip_biases(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latents: Latents, masks: Masks, condition: Tensor | None = None) -> Tensor:
        """Predict every target block.

        Args:
            latents: of the context, (batch, groups, keep, dim).
            masks: block b is predicted from group b, or from the only group.
            condition: (batch, width) added to every mask token, or None.

        Returns:
            (batch, blocks, targets, target_dim).

        Raises:
            ValueError: neither one context group nor one per target block.
        """
        batch, blocks, targets = masks.targets.shape
        groups = masks.context.shape[1]
        if groups not in (1, blocks):
            raise ValueError(
                f"masks hold {groups} context groups for {blocks} target blocks; a masker gives 1 "
                f"group or one for each block"
            )
        position = self.position(latents.positions)
        context = self.embed(latents.tokens) + position[masks.context]
        if latents.prefix is not None and self.sees_prefix:
            context = torch.cat([self.embed(latents.prefix), context], dim=2)
        context = context.expand(-1, blocks, -1, -1)
        query = self.mask_token + position[masks.targets]
        if condition is not None:
            query = query + condition[:, None, None]
        x = torch.cat([context, query], dim=2).flatten(0, 1)
        valid = None
        if masks.context_valid is not None:
            num_prefix = context.shape[2] - masks.context.shape[2]
            seen = masks.context_valid.expand(-1, blocks, -1)
            ones = seen.new_ones(batch, blocks, 1)
            valid = torch.cat(
                [ones.expand(-1, -1, num_prefix), seen, ones.expand(-1, -1, targets)], dim=2
            ).flatten(0, 1)
        bias = key_padding(valid)
        for number, block in enumerate(self.blocks, start=1):
            # Of the last block only the targets' outputs are wanted.
            x = block(x, bias, targets if number == len(self.blocks) else None)
        out: Tensor = self.head(self.norm(x[:, -targets:]))
        return out.unflatten(0, (batch, blocks))
