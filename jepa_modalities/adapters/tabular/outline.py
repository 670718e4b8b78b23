"""What a step on a table computes, from its numbers of columns."""

from __future__ import annotations

import torch
from torch import nn

from jepa_modalities.adapters.outline import LookedUp, Outline
from jepa_modalities.adapters.tabular.adapter import TabularAdapter, check, extra_terms
from jepa_modalities.adapters.tabular.config import TableShape, TabularConfig
from jepa_modalities.adapters.tabular.model import embedding, geometry
from jepa_modalities.data.table_file import is_there


def outline(config: TabularConfig) -> Outline:
    """Networks and batch of a run on a table.

    The columns are those of `shape`, where it is given (`--shape.numeric 54`); else the table is
    opened, where it is here, because nothing else knows its columns.
    """
    path, samples, notes = config.data.path, None, []
    if config.shape == TableShape():
        if path == "breast_cancer" or is_there(path):
            adapter = TabularAdapter(config)
            config, samples = adapter.config, len(adapter)
            notes.append("the table was opened for its columns")
        else:
            notes.append(
                f"{path or 'the table'} is not here: {config.shape.numeric} numeric columns are "
                f"assumed; --shape.numeric and --shape.cardinalities tell others"
            )
    check(config)
    shape, choice = geometry(config), config.objective
    edges = [torch.arange(choice.bins + 1.0)] * config.shape.numeric
    found = Outline(config, shape, lambda: embedding(config), samples=samples, notes=notes)
    found.views = int(choice.detection > 0)
    width = None
    if config.target.kind != "ema" and config.mask.kind != "none":
        width = config.target.dim if config.target.kind == "nystroem" else choice.bins
        found.fixed = LookedUp(shape.num_tokens, width), width
        found.notes.append("the fixed target's own products are not counted")

    def terms() -> list[nn.Module]:
        return extra_terms(config, edges, width)

    found.extra = terms
    return found
