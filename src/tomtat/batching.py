"""Rows of different lengths into batches that fit in memory; training and generation share it."""

from collections.abc import Sequence


def micro_batches(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut rows, longest first, so that rows times the longest stays within the budget; at least one row each."""
    pieces: list[list[int]] = []
    longest = 0
    for length, row in sorted(((lengths[row], row) for row in rows), key=lambda pair: -pair[0]):
        if pieces and (len(pieces[-1]) + 1) * longest <= token_budget:
            pieces[-1].append(row)
        else:
            pieces.append([row])
            longest = length
    return pieces
