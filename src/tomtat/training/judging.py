"""How good the network in training is, by the summaries it writes. The loss on references says little of that."""

from collections.abc import Sequence

from tomtat.config import RunConfig
from tomtat.engines.torch_engine import TorchEngine
from tomtat.metrics.rouge import Rouge, choose_protocol
from tomtat.metrics.values import Rows
from tomtat.models import Decoding, SummarizerModel
from tomtat.training.objectives import TrainingData


class Judge:
    """Scores greedy summaries of the first validation rows, from 0 to 100, as `tomtat candidates` scores its own."""

    def __init__(self, model: SummarizerModel, data: TrainingData, config: RunConfig, decoding: Decoding) -> None:
        self.model = model
        self.rows = data.validation[: config.train.choose_rows]
        self.references = data.references[: config.train.choose_rows]
        self.decoding = Decoding(decoding.max_new_tokens, no_repeat_ngram=decoding.no_repeat_ngram)
        self.batch_tokens = config.generate.batch_tokens
        self._rouge = Rouge(*choose_protocol(config.evaluate.rouge_words, Rows(data.references)))

    def score_sum(self, numbers: Sequence[int]) -> float:
        # A new engine each time: what one remembers of a prompt holds for the same weights only.
        # And without guesses: where rounding decides, which epoch is kept would depend on their number.
        engine = TorchEngine(self.model, self.batch_tokens, lookup_tokens=0)
        found = engine.candidates([self.rows[number] for number in numbers], self.decoding)
        texts = [generations[0].text for generations in found]
        return sum(self._rouge.mean(text, self.references[number]) for text, number in zip(texts, numbers, strict=True))
