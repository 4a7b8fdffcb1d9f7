"""What `accelerate launch` asks for besides processes. Accelerate says it in the environment.

FSDP is ours (models/shards.py). By Accelerate's own, layers are gathered whenever they run, which hangs where processes
run the network unequally often; it does not start without a GPU; and Transformers loads weights in one process only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tomtat.config import RunConfig
from tomtat.errors import ConfigError

USE_FSDP = "ACCELERATE_USE_FSDP"

UNKNOWN = {"DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM", "PARALLELISM_CONFIG": "a parallelism"}
"""Other ways of cutting a model into parts, by the end of the variable that asks for them."""

ONE_WAY = {
    "FSDP_SHARDING_STRATEGY": ("full_shard", "1"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "full_shard", "1"),
    "FSDP_OFFLOAD_PARAMS": ("false",),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false",),
}
"""Settings of FSDP that change what memory holds, with the values that say what is done here."""


def asks_for_fsdp() -> bool:
    return _is_true(USE_FSDP)


def require_known_launch(config: RunConfig) -> None:
    """ConfigError for what is not done: passed over, it would be believed to be at work."""
    for way, name in UNKNOWN.items():
        if _is_true(f"ACCELERATE_USE_{way}"):
            raise ConfigError(
                f"accelerate launch asks for {name}, which tomtat does not do. Launch with --multi_gpu, where each "
                "process holds the whole model, or with --use_fsdp, where it holds a share of the frozen weights."
            )
    if not asks_for_fsdp():
        return
    if config.train.method == "full":
        raise ConfigError(
            "accelerate launch asks for FSDP, which shares out what is frozen; train.method = full trains the weights "
            "themselves. Launch with --multi_gpu instead, or train an adapter (train.method = lora)."
        )
    for name, values in ONE_WAY.items():
        if os.environ.get(name, values[0]).lower() not in values:
            raise ConfigError(
                f"accelerate launch asks for {name.lower()} = {os.environ[name]}, which tomtat does not do: layers are "
                f"gathered when they run and dropped after. Leave it out, or say {values[0]}."
            )


@contextmanager
def fsdp_unsaid() -> Iterator[None]:
    """Within, Accelerate and Transformers know of processes only."""
    said = os.environ.pop(USE_FSDP, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[USE_FSDP] = said


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() == "true"
