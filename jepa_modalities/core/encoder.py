"""TokenEncoder: raw tokens -> latents, on the kept tokens or on all."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_modalities.core.batch import Latents, Tokens
from jepa_modalities.core.block import STYLE, Block, Style, initialise
from jepa_modalities.core.masking import Masks, gather
from jepa_modalities.core.positions import RelativePosition


class TokenEncoder(nn.Module):
    """A ViT on tokens of any modality (I-JEPA, section 3): no class token, gather before block 1.

    Args:
        embed: the first learned layer. A token-wise module (`nn.Linear(features, dim)`) sees only
            the tokens it is given; a module with `mixes_tokens = True` (a convolutional stem) sees
            the whole sample and is refused under masks, because hidden input would leak. A module
            with `own_weights = True` has weights of each token's own (columns of a table): it is
            given whole samples, and the kept tokens are gathered from what it makes.
        position: coordinates (tokens, axes) -> (tokens, dim).
        dim: width.
        depth: number of blocks.
        heads: attention heads.
        style: of the blocks; with relative positions `position` may add nothing.
        num_prefix: learned register tokens in front, outside every mask.
        shows_hidden: own a mask token, for maskers that keep hidden positions (`Masks.hidden`).
    """

    def __init__(
        self,
        embed: nn.Module,
        position: nn.Module,
        dim: int,
        depth: int,
        heads: int,
        style: Style = STYLE,
        num_prefix: int = 0,
        shows_hidden: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embed = embed
        self.position = position
        self.relative = RelativePosition(num_prefix) if style.relative_axes else None
        self.blocks = nn.ModuleList(Block(dim, heads, style) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.prefix = nn.Parameter(torch.zeros(1, num_prefix, dim)) if num_prefix else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if shows_hidden else None
        initialise(self, style)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=0.02)

    def forward(
        self,
        tokens: Tokens,
        masks: Masks | None = None,
        keep: Tensor | None = None,
        blocks: bool = False,
        hidden: bool = False,
    ) -> Latents:
        """Encode the context of `masks`, the tokens in `keep`, or everything.

        Args:
            tokens: raw tokens of (batch, tokens, features).
            masks: encode `masks.context`: the rest never enters the network.
            keep: instead of masks, token numbers (batch, keep) of a random subset; a stem that
                mixes tokens is allowed here, because nothing is predicted from what it hides.
            blocks: also return the output of every block.
            hidden: also return the activations inside every block's MLP.

        Returns:
            Latents of (batch, groups, keep, dim) with masks, (batch, keep, dim) with `keep`, else
            (batch, tokens, dim).

        Raises:
            ValueError: masks together with an embedding that mixes tokens; hidden positions
                without a mask token.
        """
        index = masks.context if masks is not None else None if keep is None else keep[:, None]
        position = self.position(tokens.positions)
        if index is None:
            x, valid = self.embed(tokens.values) + position, tokens.valid
        elif getattr(self.embed, "mixes_tokens", False):
            if masks is not None:
                raise ValueError(
                    "this embedding mixes neighbouring tokens, so hidden input would leak into the "
                    "context; set encoder.stem = 'linear' for masked prediction"
                )
            x, valid = gather(self.embed(tokens.values) + position, index).flatten(0, 1), None
        else:
            if getattr(self.embed, "own_weights", False):
                x = gather(self.embed(tokens.values) + position, index)
            else:
                # Only the kept tokens are embedded: the rest costs nothing and cannot leak.
                x = self.embed(gather(tokens.values, index)) + position[index]
            if masks is not None and masks.hidden is not None:
                if self.mask_token is None:
                    raise ValueError(
                        "the masks show hidden positions, but the encoder owns no mask token; "
                        "build it with shows_hidden=True"
                    )
                x = torch.where(masks.hidden[..., None], self.mask_token + position[index], x)
            x = x.flatten(0, 1)
            valid = None if tokens.valid is None else gather(tokens.valid, index).flatten(0, 1)
            if masks is not None and masks.context_valid is not None:
                valid = masks.context_valid.flatten(0, 1)
        outputs: list[Tensor] | None = [] if blocks else None
        inside: list[Tensor] | None = [] if hidden else None
        flat = None if index is None else index.flatten(0, 1)
        bucket = None if self.relative is None else self.relative(tokens.positions, flat)
        x, prefix = self._run(x, valid, bucket, outputs, inside)
        if masks is not None:
            groups = (-1, masks.context.shape[1])
            x = x.unflatten(0, groups)
            prefix = None if prefix is None else prefix.unflatten(0, groups)
            for parts in (outputs, inside):
                if parts is not None:
                    parts[:] = [part.unflatten(0, groups) for part in parts]
        return Latents(x, tokens.positions, prefix, outputs, inside)

    def _run(
        self,
        x: Tensor,
        valid: Tensor | None,
        bucket: Tensor | None,
        outputs: list[Tensor] | None,
        inside: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        num_prefix = 0 if self.prefix is None else self.prefix.shape[1]
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        bias = key_padding(valid, num_prefix)
        for block in self.blocks:
            x = block(x, bias, inside=inside, bucket=bucket)
            if outputs is not None:
                outputs.append(x[:, num_prefix:])
        if inside is not None:
            inside[:] = [part[:, num_prefix:] for part in inside]
        x = self.norm(x)
        return x[:, num_prefix:], x[:, :num_prefix] if num_prefix else None

    @torch.no_grad()
    def attention_map(self, tokens: Tokens) -> Tensor:
        """Attention of the last block between all tokens, (batch, heads, tokens, tokens).

        The columns of prefix tokens are left out, so with them rows sum to less than 1.
        """
        x = self.embed(tokens.values) + self.position(tokens.positions)
        num_prefix = 0 if self.prefix is None else self.prefix.shape[1]
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        allowed = key_padding(tokens.valid, num_prefix)
        bucket = None if self.relative is None else self.relative(tokens.positions)
        for block in self.blocks[:-1]:
            x = block(x, allowed, bucket=bucket)
        last = cast(Block, self.blocks[-1])
        weights = last.attn.attention_map(x if last.post else last.norm1(x), allowed, bucket)
        return weights[..., num_prefix:, num_prefix:]


def key_padding(valid: Tensor | None, num_prefix: int = 0) -> Tensor | None:
    """Bool attention mask (batch, 1, 1, prefix + tokens) from `valid` (batch, tokens), or None."""
    if valid is None:
        return None
    return F.pad(valid, (num_prefix, 0), value=True)[:, None, None]
