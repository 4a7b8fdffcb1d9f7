"""Rows of different lengths into batches that fit in memory; training and generation share it."""

from collections.abc import Sequence


def micro_batches(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut rows, longest first, so that rows times the longest stays within the budget; at least one row each."""
    pieces: list[list[int]] = []
    for row in sorted(rows, key=lambda r: -lengths[r]):
        if pieces and (len(pieces[-1]) + 1) * lengths[pieces[-1][0]] <= token_budget:
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces
