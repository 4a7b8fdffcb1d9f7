"""How wide batches are padded where a processor compiles a kernel for each shape it meets."""

import torch


def padded_width(longest: int, dtype: torch.dtype, device: torch.device, room: int | None) -> int:
    """Tokens to pad rows to, `longest` at least, and more than `room` only where `longest` is.

    On a CPU in bf16 oneDNN compiles and keeps kernels for each shape: with a shape of their own for each batch, that is
    a tenth of a training's time and over a gigabyte (LOG.md). Eight widths for each doubling take 4 % more tokens.
    """
    if device.type != "cpu" or dtype != torch.bfloat16:
        return longest
    step = max(8, 1 << max(0, longest.bit_length() - 4))
    rounded = -(-longest // step) * step
    return rounded if room is None else max(longest, min(rounded, room))
