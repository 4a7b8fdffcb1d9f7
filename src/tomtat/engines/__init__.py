"""Prompts in, generations out."""

from tomtat.engines.torch_engine import TorchEngine

__all__ = ["TorchEngine"]
