"""Tensors on their way to where the network lies."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`; on the CPU it is the same one.

    To a GPU it goes through page-locked memory, from where it is copied while the CPU prepares what comes next; torch
    keeps that memory until the copy is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
