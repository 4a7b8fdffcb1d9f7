"""Batches in bf16 on a CPU come in few shapes, and their padding changes nothing."""

from pathlib import Path

import pytest
import torch

from test_frozen_cache import encoded, prepared, tiny_bart  # noqa: F401
from tomtat.models.base import Encoded, SummarizerModel
from tomtat.models.frozen import FrozenBatch, frozen_part
from tomtat.models.precision import cast_parameters
from tomtat.models.widths import padded_width

CPU = torch.device("cpu")


def test_widths_are_few_and_little_wider_than_the_longest_row():
    widths = [padded_width(longest, torch.bfloat16, CPU, None) for longest in range(1, 4097)]
    assert all(longest <= width for longest, width in enumerate(widths, 1))
    assert max(width / longest for longest, width in enumerate(widths, 1) if longest >= 128) <= 1 + 1 / 8
    assert len({width for width in widths if 512 < width <= 1024}) == 8
    assert widths == sorted(widths)


def test_widths_stay_within_the_positions_and_are_exact_where_no_kernels_are_compiled():
    assert padded_width(1001, torch.bfloat16, CPU, 1010) == 1010
    assert padded_width(1001, torch.bfloat16, CPU, 1000) == 1001
    assert padded_width(1001, torch.float32, CPU, None) == 1001
    assert padded_width(1001, torch.bfloat16, torch.device("cuda"), None) == 1001


@pytest.mark.parametrize(
    ("name", "target"),
    [(name, target) for name in ("tiny_t5", "tiny_bart") for target in ("all-linear", "top-1", "decoder")]
    + [("tiny_llama", "all-linear"), ("tiny_llama", "top-1")],
)
def test_wider_rows_have_the_same_loss(
    name: str, target: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """Seen in fp32, where a difference would show."""
    model = prepared(request.getfixturevalue(name), target)
    rows = encoded(model)
    plain = losses(model, rows)
    for place in ("base", "frozen"):
        monkeypatch.setattr(
            f"tomtat.models.{place}.padded_width",
            lambda longest, dtype, device, room: padded_width(longest, torch.bfloat16, device, room),
        )
    assert losses(model, rows) == pytest.approx(plain, rel=1e-5)


def losses(model: SummarizerModel, rows: list[Encoded]) -> list[float]:
    """Without and with states of the frozen part, where there is one."""
    part = frozen_part(model.network)
    below = FrozenBatch.of(part, [part.states(model.frozen_ids(row)) for row in rows]) if part else None
    return [model.loss_sum(rows).item(), model.loss_sum(rows, below).item()]


def test_batches_of_other_lengths_share_shapes(tiny_llama: Path):
    model = prepared(tiny_llama, "all-linear")
    cast_parameters(model.network, torch.bfloat16)
    shapes = set()
    for longest in range(257, 289):
        ids, labels = model._shifted([Encoded([1] * (longest - 9), [2] * 10), Encoded([1] * 40, [2] * 10)])  # type: ignore[attr-defined]
        shapes.add((ids.shape, labels.shape))
    assert shapes == {((2, 288), (2, 288))}
