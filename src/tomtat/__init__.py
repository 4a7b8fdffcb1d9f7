"""Fine-tune small summarizers with LoRA, measure them honestly, use them anywhere.

    run = tomtat.finetune("recipes/quickstart.toml")
    print(tomtat.evaluate(run).table())
    print(tomtat.Summarizer.load(run)("A long text or a list of chat messages"))

Names are imported when first used, so that `import tomtat` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tomtat.config import RunConfig as RunConfig
    from tomtat.data import load_examples as load_examples
    from tomtat.errors import TomtatError as TomtatError
    from tomtat.evaluation import Evaluation as Evaluation
    from tomtat.evaluation import compare as compare
    from tomtat.evaluation import evaluate as evaluate
    from tomtat.run_folder import RunFolder as RunFolder
    from tomtat.summarizer import Summarizer as Summarizer
    from tomtat.training import finetune as finetune
    from tomtat.types import Example as Example
    from tomtat.types import Message as Message
    from tomtat.types import Score as Score

_HOMES = {
    "Evaluation": "tomtat.evaluation",
    "Example": "tomtat.types",
    "Message": "tomtat.types",
    "RunConfig": "tomtat.config",
    "RunFolder": "tomtat.run_folder",
    "Score": "tomtat.types",
    "Summarizer": "tomtat.summarizer",
    "TomtatError": "tomtat.errors",
    "compare": "tomtat.evaluation",
    "evaluate": "tomtat.evaluation",
    "finetune": "tomtat.training",
    "load_examples": "tomtat.data",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tomtat' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
