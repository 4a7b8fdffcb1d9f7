"""Prompts in, generations out."""

from tomtat.engines.base import Engine
from tomtat.engines.live import LiveEngine
from tomtat.engines.opening import ENGINES, Opened, open_engine
from tomtat.engines.torch_engine import TorchEngine

__all__ = ["ENGINES", "Engine", "LiveEngine", "Opened", "TorchEngine", "open_engine"]
