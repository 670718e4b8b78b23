"""Full precision inside autocast."""

from __future__ import annotations

import contextlib

import torch


def full_precision(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off; nothing where the device ("meta") knows no autocast."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
