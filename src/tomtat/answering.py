"""Who answers in a chat: a small model on this machine, or any server that speaks OpenAI's language."""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tomtat.errors import ModelError

AnyMessage = Mapping[str, Any]

MAX_NEW_TOKENS = 400
DEFAULT_MODEL = "smollm2-135m-instruct"


class Answerer(Protocol):
    """Messages in, an answer out, piece by piece."""

    name: str
    prompt_tokens: int | None
    """What the last request cost, as far as the answer said."""

    def stream(self, messages: Sequence[AnyMessage]) -> Iterator[str]: ...


class LocalModel:
    """A small causal model, untuned, on this machine. It chats as well as its size allows.

    Raises: ModelError where the model is none that chats.
    """

    def __init__(self, name: str = DEFAULT_MODEL, device: str = "auto") -> None:
        from tomtat.config import ModelSettings, PromptSettings
        from tomtat.models.loading import load_base, place

        self.name = name
        self.prompt_tokens: int | None = None
        settings = ModelSettings.model_construct(name=name, revision=None, device=device, precision="auto")
        self._model = load_base(settings, PromptSettings())
        if self._model.is_encoder_decoder or not self._model.tokenizer.chat_template:
            raise ModelError(
                f"{name} does not chat: it has no chat template. Name another with --answers, or a server."
            )
        place(self._model, settings)

    @property
    def tokenizer(self) -> Any:
        return self._model.tokenizer

    def stream(self, messages: Sequence[AnyMessage]) -> Iterator[str]:
        import torch
        from transformers import TextIteratorStreamer

        tokenizer, network = self._model.tokenizer, self._model.network
        try:
            prompt = tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        except Exception as error:  # a template raises whatever its author wrote: for a role or a part it doesn't know
            raise ModelError(f"{self.name} can't read this conversation: {_one_line(str(error))}") from None
        self.prompt_tokens = int(prompt["input_ids"].shape[1])
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        stopped, failed = threading.Event(), []

        def generate() -> None:
            try:
                with torch.inference_mode():
                    network.generate(
                        **prompt.to(network.device), streamer=streamer, max_new_tokens=MAX_NEW_TOKENS, do_sample=False,
                        repetition_penalty=1.1, stopping_criteria=[lambda *_: stopped.is_set()],
                    )  # fmt: skip
            except Exception as error:  # raised again below, where somebody listens
                failed.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, name="tomtat-answer", daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            stopped.set()
            thread.join()
        if failed:
            raise failed[0]


class Upstream:
    """A model behind an OpenAI-shaped server. The key comes from `$OPENAI_API_KEY`.

    Raises: ModelError where the server can't be reached, refuses, or breaks off.
    """

    def __init__(self, url: str, model: str) -> None:
        try:
            import openai
        except ImportError:
            raise ModelError("Talking to a server needs the openai package: pip install 'tomtat[upstream]'.") from None
        self.name = model
        self.prompt_tokens: int | None = None
        self._openai = openai
        self._url = re.sub(r"//[^/@]*@", "//", url)
        """As it is told: without a password."""
        # Local servers want no key, but the client does.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        if not re.match(r"https?://[^/]", url):
            raise ModelError(f"{self._url} is no server's address: it begins with http:// or https://.")
        try:
            self._client = openai.OpenAI(base_url=url, api_key=key, timeout=120.0)
        except Exception as error:  # of the HTTP library below, which has a class of its own for it
            raise ModelError(f"{self._url} is no server's address: {_one_line(str(error))}") from None

    def stream(self, messages: Sequence[AnyMessage]) -> Iterator[str]:
        self.prompt_tokens = None
        try:
            with self._client.chat.completions.create(
                model=self.name, messages=list(messages), stream=True, stream_options={"include_usage": True}
            ) as chunks:
                for chunk in chunks:
                    if chunk.usage is not None:
                        self.prompt_tokens = chunk.usage.prompt_tokens
                    for choice in chunk.choices or ():
                        if choice.delta and choice.delta.content:
                            yield choice.delta.content
        except self._openai.APIStatusError as error:
            raise ModelError(f"{self._url} answered {error.status_code}: {_one_line(error.message)}") from None
        except self._openai.APIError as error:
            raise ModelError(f"{self._url} can't be reached, or broke off: {_one_line(error.message)}") from None
        except (ValueError, AttributeError) as error:  # the client reads whatever comes, and checks nothing
            raise ModelError(f"{self._url} doesn't answer as OpenAI does: {_one_line(str(error))}") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
