"""Processes under torchrun: who am I, gather with gradient, DDP and FSDP2."""

from __future__ import annotations

import inspect
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, its defaults would hold a group
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class Processes:
    """This process among its peers.

    Attributes:
        rank: number of this process.
        world: number of processes.
        device: of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def agree(self, value: str) -> str:
        """The first process's value."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def slice(self, rows: int) -> tuple[int, int]:
        """This process's part of the global batch."""
        return self.rank * rows // self.world, (self.rank + 1) * rows // self.world


def launch() -> str:
    """Name of the launch that this process belongs to; torchrun's restarts keep it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return name if name != "none" else f"{socket.gethostname()} {os.getppid()}"


def restarted() -> bool:
    """Whether torchrun has started this process again, after one of the launch had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    """Whether torchrun would (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def pick_device(name: str, setting: str = "train.device") -> torch.device:
    """Device of "auto", "cpu", "cuda", "cuda:1".

    Args:
        name: of the device.
        setting: where it was given, for the message.

    Raises:
        ValueError: CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"{setting} = {name!r}, but PyTorch finds no CUDA device; use 'cpu': --train.device "
            f"cpu for jm pretrain, --device cpu for jm evaluate and jm embed"
        )
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return torch.device(name)


@contextmanager
def processes(device_name: str) -> Iterator[Processes]:
    """Join the group that torchrun describes, or stay alone; leaves a group it has joined."""
    device = pick_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, device)
        return
    # The others wait while the first process probes; when one dies, torchrun ends them all.
    patience = timedelta(hours=12)
    shared, rank, world = next(rendezvous("env://"))
    # A restarted launch meets in the same store, where the addresses of the dead still stand.
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), shared)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=patience, store=store, rank=rank, world_size=world)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
        # Gloo's threads drop the tensors of the last calls, for which they need the interpreter;
        # where they meet its end, the process is aborted. Destroying joins them, but DTensor's
        # caches (FSDP) hold the group: those threads get their turn here.
        time.sleep(0.1)


class _Gather(torch.autograd.Function):
    """All processes' rows; the gradient of the rows is the SUM over processes.

    Every process computes the same loss of the gathered batch, so after DDP has averaged the
    parameters' gradients they equal those of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    """Concatenate over processes along the first axis, with gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    out: Tensor = _Gather.apply(x)
    return out


def wrap(model: nn.Module, peers: Processes, strategy: str) -> nn.Module:
    """Make gradients agree over processes: DDP, or FSDP2 for encoders too large for one device.

    Raises:
        ValueError: unknown strategy.
    """
    if strategy not in ("ddp", "fsdp"):
        raise ValueError(f"train.strategy = {strategy!r} is not known; choose 'ddp' or 'fsdp'")
    if peers.world == 1:
        return model
    if strategy == "ddp":
        # Newer versions have another name for: do not send buffers at every step.
        named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in named)
        buffers: dict[str, Any] = {name: False}
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, **buffers)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Encoder and predictor return slices; nothing here changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(peers.device.type, (peers.world,))
    for part in (model.encoder, model.teacher, model.predictor):
        if part is not None:
            for block in part.blocks:  # type: ignore[union-attr]
                fully_shard(block, mesh=mesh)
            fully_shard(part, mesh=mesh)  # type: ignore[arg-type]  # also called on its own, by the monitor
    fully_shard(model, mesh=mesh)
    return model


def gather_numbers(numbers: Tensor) -> Tensor:
    """Stack a small tensor of every process, (world, ...); no gradient."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return numbers[None]
    parts = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, numbers.contiguous())
    return torch.stack(parts)
