"""Attention on the CPU: the fused kernel beside plain products, inside of a block, by length.

    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 python benchmarks/attention.py --threads 1

Process CPU seconds of one block, forward and backward, minimum over --rounds in which both take
turns; the ratio is fused / products: above 1 means that products are faster.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from evidence import RESULTS, about
from torch import Tensor

from jepa_modalities.core import block
from jepa_modalities.core.block import Block, products

# batch, tokens, width, heads
SHAPES = (
    (512, 7, 32, 2),
    (512, 14, 32, 2),
    (512, 14, 96, 8),
    (512, 54, 96, 8),
    (128, 16, 128, 4),
    (128, 26, 128, 4),
    (128, 50, 128, 4),
    (128, 64, 128, 4),
    (64, 96, 192, 3),
    (32, 144, 192, 3),
    (32, 196, 192, 3),
)


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "attention_cpu.json")
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    table: list[dict[str, Any]] = []
    for batch, tokens, dim, heads in SHAPES:
        layer = Block(dim, heads)
        x = torch.randn(batch, tokens, dim, requires_grad=True)
        seconds: dict[str, list[float]] = {"fused": [], "products": []}
        for _ in range(own.rounds + 1):
            for name, function in (("fused", fused), ("products", products)):
                with mock.patch.object(block, "attend", function):
                    begin = time.process_time()
                    layer(x).sum().backward()
                    seconds[name].append(time.process_time() - begin)
        best = {name: min(values[1:]) for name, values in seconds.items()}
        row = {"batch": batch, "tokens": tokens, "dim": dim, "heads": heads, **best}
        row["ratio"] = best["fused"] / best["products"]
        table.append(row)
        print(row)
    own.out.write_text(json.dumps(about(own.threads) | {"table": table}, indent=1))


if __name__ == "__main__":
    main()
