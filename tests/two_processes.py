"""What `accelerate launch` needs to start two processes without a GPU: with --cpu it would start one."""

import os
import subprocess
import sys

ENVIRONMENT = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(*arguments: object, way: str = "--multi_gpu") -> list[str]:
    """`way` is --multi_gpu or --use_fsdp; arguments are a script's name, or -m and a module's, and what it is given."""
    flags = [way, "--num_processes=2", "--num_machines=1", "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]  # fmt: skip
    return [sys.executable, "-m", "accelerate.commands.launch", *flags, *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | ENVIRONMENT


def run(*arguments: object, way: str = "--multi_gpu") -> None:
    """To the end, which must be a good one."""
    started = command(*arguments, way=way)
    result = subprocess.run(started, capture_output=True, text=True, timeout=600, check=False, env=environment())
    assert result.returncode == 0, result.stderr[-6000:]
