"""Libraries kept from talking over us on the terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and hints of Transformers and the hub's client; ours says what is going on."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    peers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx")]
    levels = [logger.level for logger in peers]
    for logger in peers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(peers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without PEFT's warnings: of tied heads, which merging unties first (merging.py); of initialisations that change
    the base, which are saved as plain LoRA; and of an attribute that Transformers renamed."""
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"peft\.|transformers\.")
        yield


@contextmanager
def quiet_gguf_reader() -> Iterator[None]:
    """Transformers' reader of GGUF draws a progress bar of its own, which Transformers' switch does not reach."""
    from functools import partial

    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
