"""Rows of a data set on the Hugging Face hub, by name, config and split."""

from collections.abc import Sequence
from typing import Any

from tomtat.errors import DataError


def open_hub_rows(source: str, split: str | None) -> Sequence[dict[str, Any]]:
    """Rows of `name` or `name:config`, read when asked for; the split defaults to `train`, the only one files have."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name, _, config = source.partition(":")
    split = split or "train"
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        # One short question first: Datasets itself repeats each failing request for half a minute.
        try:
            HfApi().dataset_info(name, timeout=10)
        except HfHubHTTPError:
            raise
        except Exception:
            datasets.config.HF_HUB_OFFLINE = True  # what an earlier run left in the cache is used
        rows: Sequence[dict[str, Any]] = datasets.load_dataset(name, config or None, split=split)
        return rows
    except (ConnectionError, OSError) as error:
        if error.errno is not None and not isinstance(error, ConnectionError | FileNotFoundError):
            raise  # a full disk, for instance: nothing to do with the hub
        if isinstance(error, HfHubHTTPError | datasets.exceptions.DatasetNotFoundError):
            raise DataError(f"The hub has no data set {name!r} that you may read. Check the name.") from None
        raise DataError(
            f"There is no file {source!r}, and the hub can't be reached for a data set of that name. "
            "Name a .jsonl file, or `chats` for the bundled conversations."
        ) from None
    except ValueError as error:
        raise DataError(f"Data set {source!r}, split {split!r}: {' '.join(str(error).split())}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
