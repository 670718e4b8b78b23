"""Model and optimiser as plain full tensors by name, whether sharded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_modalities.train.checkpoint import CheckpointError


def _full(tensor: Tensor) -> Tensor:
    whole = getattr(tensor, "full_tensor", None)
    return (tensor if whole is None else whole()).detach().cpu()


def _like(value: Tensor, place: Tensor) -> Tensor:
    """`value` sharded, placed and typed like `place`."""
    if hasattr(place, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = place.device_mesh, place.placements  # type: ignore[attr-defined]
        return distribute_tensor(value.to(place.device), mesh, placements)
    return value.to(place.device)


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """All persistent tensors of a module, whole, on the CPU; every process must call this."""
    return {name: _full(tensor) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def load_model(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Fill a module in place; every name is required.

    Raises:
        CheckpointError: names or shapes differ from the model's.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    if missing or extra or wrong:
        raise CheckpointError(
            f"the checkpoint in {where} is of another model: missing {missing[:3]}, unknown "
            f"{extra[:3]}, other shape {wrong[:3]}; resume with the run's own configuration"
        )
    for name, tensor in own.items():
        tensor.copy_(_like(tensors[name], tensor))


def optimiser_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of each parameter by its name; every process must call this."""
    return {
        name: {key: _full(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def load_optimiser(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Fill the optimiser's state from `optimiser_state`'s."""
    for name, parameter in model.named_parameters():
        if name in state:
            optimizer.state[parameter] = {
                key: value.to(parameter.device) if value.ndim == 0 else _like(value, parameter)
                for key, value in state[name].items()
            }
