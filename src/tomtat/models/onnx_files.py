"""A causal model as ONNX files for ONNX Runtime, made by the model builder of onnxruntime-genai.

Encoder-decoders have no way there: the builder has none of T5, BART or PEGASUS, and Optimum's exporter
(optimum-onnx 0.1.0, the newest) demands Transformers below 4.58.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tomtat.errors import ModelError

_NEEDED = ("onnxruntime_genai", "onnx_ir", "onnx")


def write_onnx(merged: Path, folder: Path) -> None:
    """Write model.onnx, genai_config.json and the tokenizer of a whole causal model into `folder`, in fp32 for CPUs."""
    config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or [config["model_type"]])[0]
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"ONNX is not possible for {name}: onnxruntime-genai builds no text-to-text encoder-decoders, and "
            "optimum-onnx 0.1.0 needs Transformers below 4.58. Export it --to ctranslate2 or --to merged instead."
        )
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ModelError(f"ONNX export needs {', '.join(missing)}: pip install 'tomtat[onnx]'.")
    with tempfile.TemporaryDirectory() as cache:
        # As a process of its own: the builder talks much, and holds the weights twice.
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(merged), "-o", str(folder)]
        result = subprocess.run(
            [*command, "-p", "fp32", "-e", "cpu", "-c", cache],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    if result.returncode != 0 or not (folder / "model.onnx").is_file():
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise ModelError(f"onnxruntime-genai can't build {name}: {reason}. Export it --to merged instead.")
