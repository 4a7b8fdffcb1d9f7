"""The model card: README.md in the adapter's folder, with the hub's metadata, the table, the limits, how to use it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tomtat.files import write_text
from tomtat.models.sources import hub_id
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "meteor", "bertscore")
LICENCE_LINE = "# license: fill in before you publish; the base model's licence and your data's bind you"
_SEAL = "<!-- made by tomtat; sha256 of the lines above: {digest} -->"
_SEALED = re.compile(
    r"(?P<text>.*)<!-- made by tomtat; sha256 of the lines above: (?P<digest>[0-9a-f]{64}) -->\s*", re.DOTALL
)


def update_card(folder: RunFolder, progress: Progress) -> None:
    """Write the card anew from all evaluations of the run; one that somebody has edited is left as it is."""
    path = folder.trained_path / "README.md"
    if _is_edited(path):
        progress.note(f"{path} was edited by hand, so it stays as it is")
        return
    write_text(path, card_text(folder))


def card_text(folder: RunFolder, base_id: str | None = None) -> str:
    """The card as somebody edited it, else made anew; without a touch to the run.

    `base_id` is the base's hub id where the run knows it by a local folder.
    """
    path = folder.trained_path / "README.md"
    if _is_edited(path):
        return path.read_text(encoding="utf-8")
    text = render_card(folder, base_id)
    return text + _SEAL.format(digest=_digest(text)) + "\n"


def _is_edited(path: Path) -> bool:
    return path.exists() and not _is_ours(path.read_text(encoding="utf-8"))


def _is_ours(text: str) -> bool:
    match = _SEALED.fullmatch(text)
    return match is not None and _digest(match["text"]) == match["digest"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def render_card(folder: RunFolder, base_id: str | None = None) -> str:
    """Metadata and text of the card; `license` is left for whoever publishes it."""
    from huggingface_hub import EvalResult, ModelCardData

    config, info = folder.config, folder.info()
    name = folder.path.resolve().name
    evaluations = _evaluations(folder)
    is_lora = config.train.method == "lora"
    base = base_id or str(info["base"]["name"])
    base_id = hub_id(base)
    data = ModelCardData(
        base_model=base_id,
        library_name="peft" if is_lora else "transformers",
        pipeline_tag="summarization",
        tags=["summarization", "tomtat", *(["lora"] if is_lora else [])],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="summarization",
                task_name="Summarization",
                dataset_type=_dataset_type(scores["data"]),
                dataset_name=_dataset_name(scores["data"]),
                metric_type=metric,
                metric_name=metric,
                metric_value=round(score["value"], 2),
            )
            for scores in evaluations
            for metric in METRICS
            if (score := scores["systems"][scores["judged"][0]]["scores"].get(metric))
        ]
        or None,
    )
    metadata = data.to_yaml()
    parts = [
        f"---\n{LICENCE_LINE}\n{metadata}\n---\n",
        f"# {name}\n",
        f"A summarizer: {'a LoRA adapter for' if is_lora else 'fine-tuned from'} "
        f"{base if base_id else 'a model in a local folder'}, made with tomtat {info['tomtat']}.\n",
        _training_text(folder),
        *(_evaluation_text(scores) for scores in evaluations),
        _limits_text(config.data.max_source_tokens, info["max_new_tokens"]),
        _use_text(is_lora, name),
    ]
    return "\n".join(parts) + "\n"


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    found = []
    for path in (folder.path / "scores.json", *sorted(folder.path.glob("evaluations/*/scores.json"))):
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
            scores["systems"][scores["judged"][0]]["scores"]
        except (OSError, ValueError, KeyError, IndexError):
            continue  # none, or one of an older tomtat
        found.append(scores)
    return found


def _dataset_name(spec: str) -> str:
    """What a stranger can make of it: the last two parts of a file's path, without its ending."""
    source = re.split(r"(?<=.)[\[@]", spec)[0]
    parts = Path(source).with_suffix("" if source.endswith((".jsonl", ".json")) else Path(source).suffix).parts
    return "/".join(parts[-2:]).lstrip("/.") + spec[len(source) :]


def _dataset_type(spec: str) -> str:
    """The hub wants an id: letters, digits, dots, dashes, one slash."""
    return re.sub(r"[^\w./-]+", "-", re.split(r"(?<=.)[\[@]", _dataset_name(spec))[0]).strip("-") or "data"


def _training_text(folder: RunFolder) -> str:
    config, info = folder.config, folder.info()
    how = (
        f"LoRA rank {config.lora.rank} on {config.lora.target}" if config.train.method == "lora" else "Full fine-tuning"
    )
    train, parameters = config.train, info["parameters"]
    return (
        "## Training\n\n"
        f"{how}, learning rate {train.learning_rate:g}, up to {train.epochs} epochs of "
        f"{info['data']['train_rows']:,} rows of {_dataset_name(config.data.train)} in batches of {train.batch_size}, "
        f"{info['precision']}, seed {config.seed}: {parameters['trainable']:,} of {parameters['total']:,} weights "
        "trained. "
        f"SHA-256 of the base's weights: `{info['base']['sha256']}`{_base_note(info['base'])}.\n"
    )


def _base_note(base: dict[str, Any]) -> str:
    """The embedded model's weights are not bit for bit the hub's, and an adapter knows those it was trained on."""
    return f" ({base['note']}: with the hub's own, summaries may differ a little)" if base.get("note") else ""


def _evaluation_text(scores: dict[str, Any]) -> str:
    systems = scores["systems"]
    ours = systems[scores["judged"][0]]["scores"]
    metrics = [metric for metric in METRICS if metric in ours]
    lines = [
        f"| {scores['rows']:,} rows of {_dataset_name(scores['data'])} | {' | '.join(metrics)} |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for system, found in systems.items():
        cells = [f"{found['scores'][m]['value']:.1f}" if m in found["scores"] else "-" for m in metrics]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    notes = [
        *(found["verdict"] for found in scores["comparisons"].values()),
        *scores["notes"],
        *(f"{name} not run: {why}." for name, why in scores["not_run"].items()),
    ]
    recipes = [f"{metric}: {ours[metric]['recipe']}" for metric in metrics]
    return "\n".join(
        ["## Evaluation\n", *lines, "", *_items(notes), "", "How each was measured:\n", *_items(recipes), ""]
    )


def _items(texts: list[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _limits_text(source_tokens: int, new_tokens: int) -> str:
    return (
        "## Limits\n\n"
        f"It reads the first {source_tokens:,} tokens of a text and writes at most {new_tokens:,}. A small model mixes "
        "up who did what and may state what its source does not say: check names and numbers before you rely on them. "
        "It was measured on the rows named above and nothing else.\n"
    )


def _use_text(is_lora: bool, name: str) -> str:
    lines = [
        "## Use\n",
        "```python",
        "import tomtat",
        "",
        f'summarize = tomtat.Summarizer.load("{name}")  # this folder, with tomtat.json in it',
        'print(summarize("A long text, or a list of chat messages"))',
        "```",
    ]
    if is_lora:
        lines.append("\nPlain PEFT reads it too; prompt and limits stand in `tomtat.json`.")
    return "\n".join(lines)
