"""Parquet, a few rows at a time. Damage costs a row group: nothing in the file says where in it a row begins."""

from collections.abc import Iterable, Iterator
from typing import Any

from tomtat.data.files import Input, random_access
from tomtat.data.jsonl import Row
from tomtat.errors import DataError

BATCH_ROWS = 64


def parquet_rows(source: Input) -> Iterator[Row]:
    """Rows of a Parquet file, a few at a time. A damaged row group is told, and the others are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with random_access(source) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=1 << 20, page_checksum_verification=True)
            counts = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{source.place} can't be read as Parquet ({_short(error)}). Is it cut, or another kind of file?"
            ) from None
        first = 1
        for group, count in enumerate(counts):
            number = first
            try:
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                    yield from _of_batch(batch, number)
                    number += len(batch)
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                lost = first + count - 1
                problem = f"rows {number:,} to {lost:,} can't be read ({_short(error)}). Is the file damaged?"
                yield Row(number, problem=problem, unit="row")
            first += count


def _of_batch(batch: Any, first: int) -> Iterator[Row]:
    size = max(1, batch.nbytes // max(1, len(batch)))
    for number, value in enumerate(_values(batch), start=first):
        problem = value if isinstance(value, str) else None
        yield Row(number, None if problem else value, problem, start=(number - 1) * size, end=number * size, unit="row")


def _values(batch: Any) -> Iterable[dict[str, Any] | str]:
    try:
        found: list[dict[str, Any]] = batch.to_pylist()
        return found
    except UnicodeDecodeError:
        return (_value(batch, number) for number in range(len(batch)))


def _value(batch: Any, number: int) -> dict[str, Any] | str:
    try:
        value: dict[str, Any] = batch.slice(number, 1).to_pylist()[0]
        return value
    except UnicodeDecodeError:
        return "a text that is not UTF-8. Is the file damaged?"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
