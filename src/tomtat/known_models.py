"""Models of the families that tomtat trains, and what is known of each. A list to choose from, no fence: any model of
these families is taken by its id on the hub, or as a folder.

Figures are the models' own: files and cards on the hub as last read in 2023 to 2026. What was not certain is left out.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from tomtat.errors import ConfigError

Kind = Literal["encoder-decoder", "causal"]
_CAUSAL = ("gemma3_text", "llama", "phi3", "qwen2", "qwen3")


@dataclass(frozen=True)
class KnownModel:
    name: str
    """Its id on the hub."""
    model_type: str
    """As Transformers calls its family."""
    parameters: int
    """In millions."""
    megabytes: int
    """Of its weights, to download."""
    licence: str | None
    languages: str | None
    input_tokens: int
    """What it was made to read at most. T5's kind takes more, at a price in memory and with less practice."""
    ctranslate2: bool = True
    """It can be converted for the fast engine on CPUs, and is right then."""
    is_gated: bool = False
    """Its terms must be accepted on its page first."""
    revision: str | None = None
    """Where its main branch has weights as pickles only, which are refused: a revision that has them as safetensors."""
    only_pickles: bool = False
    """None such is known: convert it once."""

    @property
    def kind(self) -> Kind:
        return "causal" if self.model_type in _CAUSAL else "encoder-decoder"

    @property
    def short_name(self) -> str:
        return self.name.rpartition("/")[2].lower()


T5_LANGUAGES = "en, fr, de, ro"
APACHE, MIT = "Apache-2.0", "MIT"

KNOWN = (
    KnownModel("google/flan-t5-small", "t5", 77, 308, APACHE, T5_LANGUAGES, 512),
    KnownModel("google/flan-t5-base", "t5", 248, 990, APACHE, T5_LANGUAGES, 512),
    KnownModel("google/flan-t5-large", "t5", 783, 3133, APACHE, T5_LANGUAGES, 512),
    KnownModel("google-t5/t5-small", "t5", 61, 242, APACHE, T5_LANGUAGES, 512),
    KnownModel(
        "google/mt5-small", "mt5", 300, 1200, APACHE, "about 100", 1024,
        revision="6f9238ffa7de159b1245f899909bac7f40de53ae",
    ),
    KnownModel("google/umt5-small", "umt5", 307, 1230, APACHE, "about 100", 1024, only_pickles=True),
    KnownModel("facebook/bart-base", "bart", 139, 558, APACHE, "en", 1024),
    KnownModel("facebook/bart-large-cnn", "bart", 406, 1625, MIT, "en", 1024),
    KnownModel("facebook/mbart-large-50", "mbart", 611, 2440, MIT, "50", 1024, revision="refs/pr/7"),
    KnownModel("google/pegasus-xsum", "pegasus", 569, 2280, None, "en", 512, only_pickles=True),
    KnownModel("allenai/led-base-16384", "led", 162, 648, APACHE, "en", 16384, False, revision="refs/pr/4"),
    KnownModel("google/long-t5-tglobal-base", "longt5", 248, 990, APACHE, "en", 4096, False, revision="refs/pr/3"),
    KnownModel("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", 135, 269, APACHE, "en", 8192),
    KnownModel("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 362, 724, APACHE, "en", 8192),
    KnownModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 1711, 3423, APACHE, "en", 8192),
    KnownModel("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 494, 988, APACHE, "29 and more", 32768),
    KnownModel("Qwen/Qwen3-0.6B", "qwen3", 596, 1503, APACHE, "over 100", 32768),
    KnownModel("google/gemma-3-270m-it", "gemma3_text", 268, 536, "Gemma", None, 32768, False, is_gated=True),
    KnownModel("google/gemma-3-1b-it", "gemma3_text", 1000, 2000, "Gemma", None, 32768, False, is_gated=True),
    KnownModel("microsoft/Phi-4-mini-instruct", "phi3", 3836, 7672, MIT, "23", 131072, False),
)  # fmt: skip


def known(name: str) -> KnownModel | None:
    """By its id, or by the part of it behind the slash, in any case."""
    small = name.lower()
    return next((model for model in KNOWN if small in (model.name.lower(), model.short_name)), None)


def hub_name(name: str, others: tuple[str, ...] = ()) -> str:
    """The id on the hub that somebody means; an id that is not in the list is one all the same.

    others: names that would have been understood too, for the message.

    Raises: ConfigError where it is neither.
    """
    if found := known(name):
        return found.name
    owner, slash, model = name.partition("/")
    if slash and owner and model and "/" not in model:
        return name
    names = [*others, *(model.short_name for model in KNOWN)]
    near = get_close_matches(name.lower(), names, n=1)
    raise ConfigError(
        f"There is no {name!r} to pull or remove." + (f" Did you mean {near[0]}?" if near else "")
        + " tomtat models list shows what is known; any other model goes by its id on the hub, OWNER/NAME."
    )  # fmt: skip
