"""Predictor: context latents and positions -> features at the target positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents
from jepa_modalities.core.block import STYLE, Block, Style, initialise
from jepa_modalities.core.encoder import key_padding
from jepa_modalities.core.masking import Masks
from jepa_modalities.core.positions import NoPosition, RelativePosition, SinCosPosition


class Predictor(nn.Module):
    """A narrow ViT that fills mask tokens from the context (I-JEPA, section 3).

    Each target block is its own sequence: context tokens + one mask token per target position.
    Where the masks show hidden positions (`Masks.hidden`), the encoder's latents already hold them,
    last and in the order of the targets: no further mask tokens are put in.

    `packed` puts all target blocks of a sample behind one context instead: mask tokens see the
    context and their own block, the context sees itself only. Blocks still do not see each other,
    and the context is computed once; but it is no longer changed by what is asked of it, so this is
    another predictor than the paper's.

    Args:
        dim: width of the encoder.
        width: width of the predictor (384 in the papers).
        depth: number of blocks (6 for tiny to base, 12 for large and huge, 16 for giant).
        heads: attention heads (the encoder's number in the papers).
        target_dim: width of what is predicted.
        style: of the blocks; relative positions take the place of `position`.
        position: coordinates (tokens, axes) -> (tokens, width); sin-cos if not given.
        sees_prefix: the encoder's register tokens are part of the context.
        num_prefix: prefix tokens of the encoder, for relative positions.
        shows_hidden: the masks show hidden positions: no mask token of its own.
        packed: one sequence per sample, see above.

    Raises:
        ValueError: `packed` with relative positions or with shown hidden positions.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        target_dim: int,
        style: Style = STYLE,
        position: nn.Module | None = None,
        sees_prefix: bool = True,
        num_prefix: int = 0,
        shows_hidden: bool = False,
        packed: bool = False,
    ) -> None:
        super().__init__()
        if packed and (style.relative_axes or shows_hidden):
            other = "masks that show hidden positions" if shows_hidden else "relative positions"
            raise ValueError(f"predictor.packed does not go with {other}; leave it False")
        self.packed = packed
        self.embed = nn.Linear(dim, width)
        if style.relative_axes:
            position = NoPosition()
        self.position = SinCosPosition(width) if position is None else position
        self.sees_prefix = sees_prefix
        self.relative = RelativePosition(num_prefix) if style.relative_axes else None
        self.blocks = nn.ModuleList(Block(width, heads, style) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, target_dim)
        # A parameter that no step uses would stop a distributed run.
        self.mask_token = None if shows_hidden else nn.Parameter(torch.zeros(1, 1, width))
        initialise(self, style)
        if self.mask_token is not None:
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
            ValueError: neither one context group nor one per target block; hidden positions that
                are dropped by the masks but expected here.
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
        if masks.hidden is not None:
            shown = context.expand(-1, blocks, -1, -1).flatten(0, 1)
            return self._shown(shown, latents.positions, masks, condition)
        if self.mask_token is None:
            raise ValueError(
                "the masks drop hidden positions, but the predictor owns no mask token; build it "
                "with shows_hidden=False"
            )
        query = self.mask_token + position[masks.targets]
        if condition is not None:
            query = query + condition[:, None, None]
        if self.packed:
            return self._packed(context, query, masks)
        context = context.expand(-1, blocks, -1, -1)
        x = torch.cat([context, query], dim=2).flatten(0, 1)
        valid = None
        if masks.context_valid is not None:
            num_prefix = context.shape[2] - masks.context.shape[2]
            seen = masks.context_valid.expand(-1, blocks, -1)
            ones = seen.new_ones(batch, blocks, 1)
            valid = torch.cat(
                [ones.expand(-1, -1, num_prefix), seen, ones.expand(-1, -1, targets)], dim=2
            ).flatten(0, 1)
        bucket = None
        if self.relative is not None:
            index = torch.cat([masks.context.expand(-1, blocks, -1), masks.targets], dim=2)
            bucket = self.relative(latents.positions, index.flatten(0, 1))
        return self._run(x, key_padding(valid), bucket, targets).unflatten(0, (batch, blocks))

    def _packed(self, context: Tensor, query: Tensor, masks: Masks) -> Tensor:
        """All blocks behind one context, kept apart by the attention mask.

        Raises:
            ValueError: a context for each block.
        """
        if context.shape[1] > 1:
            raise ValueError(
                f"predictor.packed needs masks with one context for all blocks, found "
                f"{context.shape[1]}; leave it False"
            )
        x = torch.cat([context, query.flatten(1, 2)[:, None]], dim=2)[:, 0]
        blocks, targets = masks.targets.shape[1:]
        # 0: the context, which all see; from 1: the block that a mask token belongs to.
        mine = torch.arange(1, blocks + 1, device=x.device).repeat_interleave(targets)
        mine = torch.cat([mine.new_zeros(context.shape[2]), mine])
        bias = ((mine == 0) | (mine[:, None] == mine))[None, None]
        if masks.context_valid is not None:
            seen = masks.context_valid[:, 0]
            prefix = seen.new_ones(len(x), context.shape[2] - seen.shape[1])
            asked = seen.new_ones(len(x), blocks * targets)
            bias = bias & torch.cat([prefix, seen, asked], dim=1)[:, None, None]
        return self._run(x, bias, None, blocks * targets).unflatten(1, (blocks, targets))

    def _shown(
        self, x: Tensor, positions: Tensor, masks: Masks, condition: Tensor | None
    ) -> Tensor:
        """The same where hidden positions are part of the context, as its last ones.

        Raises:
            ValueError: a condition, which belongs to mask tokens that are not put in here.
        """
        if condition is not None:
            raise ValueError(
                "a condition needs mask tokens in the predictor; drop hidden positions"
            )
        groups, blocks = masks.context.shape[1], masks.targets.shape[1]
        index = masks.context.expand(-1, blocks, -1) if groups == 1 else masks.context
        valid = None
        if masks.context_valid is not None:
            seen = masks.context_valid.expand(-1, blocks, -1).flatten(0, 1)
            valid = torch.cat([seen.new_ones(len(x), x.shape[1] - seen.shape[1]), seen], dim=1)
        bucket = None
        if self.relative is not None:
            bucket = self.relative(positions, index.flatten(0, 1))
        targets = masks.targets.shape[2]
        return self._run(x, key_padding(valid), bucket, targets).unflatten(0, (-1, blocks))

    def _run(self, x: Tensor, bias: Tensor | None, bucket: Tensor | None, targets: int) -> Tensor:
        """Blocks and head: (sequences, length, width) -> (sequences, targets, target_dim).

        Args:
            x: sequences whose last positions are targets.
            bias: bool mask of attention, (sequences or 1, 1, length or 1, length), or None.
            bucket: see `Attention`.
            targets: of a sequence.
        """
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            tail = targets if number == last else None  # then only the targets' outputs are wanted
            if tail is not None and bias is not None and bias.shape[2] > 1:
                bias = bias[:, :, -tail:]
            x = block(x, bias, tail, bucket=bucket)
        found: Tensor = self.head(self.norm(x[:, -targets:]))
        return found
