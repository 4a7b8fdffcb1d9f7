"""From a recipe to a trained run folder: load, prepare, train, in the order in which a user's slips can show.

Nothing is written before config, data and model have been loaded and found good.
"""

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomtat.candidate_file import Candidate
from tomtat.config import ModelSettings, RunConfig, calibration_config, load_config
from tomtat.data import DataOptions, Reject, load
from tomtat.errors import ConfigError, RunError
from tomtat.files import replace_folder, write_json_lines, write_text
from tomtat.models import Encoded, SummarizerModel, load_base
from tomtat.models.adapters import changes_base, prepare_training, save_adapter, unfreeze
from tomtat.models.decoding import decoding_of, limits_of
from tomtat.models.loading import TrainedInfo, load_to_train_on, place
from tomtat.models.lossy import warnings_of
from tomtat.models.parameters import count_parameters
from tomtat.models.precision import cast_parameters, choose_device, choose_dtype
from tomtat.models.shards import Shards, share_out
from tomtat.progress import Progress
from tomtat.prompts import source_text
from tomtat.run_folder import RunFolder, free_path
from tomtat.training.cache import in_words
from tomtat.training.calibration import load_candidates, start_weights
from tomtat.training.checkpoints import load_checkpoint, recover_checkpoints
from tomtat.training.fitting import require_positions, told_languages
from tomtat.training.identity import (
    data_identity,
    flat,
    machine_differences,
    machine_identity,
    require_same_data,
    require_same_model,
    require_same_settings,
    require_same_start,
)
from tomtat.training.launch import asks_for_fsdp, fsdp_unsaid, require_known_launch
from tomtat.training.loop import Trainer
from tomtat.training.objectives import TrainingData
from tomtat.training.rows import SAMPLE, LazyRows, spread
from tomtat.types import Example


def finetune(
    config: RunConfig | Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train as a recipe says and return the run folder.

    `config` is a recipe's path or a RunConfig (by default all defaults: the embedded model on the bundled chats);
    `settings` maps dotted names to values that override it, such as {"lora.rank": 8}; `out` is the folder to make, by
    default `runs/` and the recipe's name.
    """
    progress = progress or Progress()
    name = Path(config).stem if isinstance(config, str | Path) else "run"
    if isinstance(config, RunConfig):
        if settings:
            raise ConfigError("Give either a RunConfig, or a recipe with settings over it.")
        resolved = config
    else:
        resolved = load_config(config, settings or {})
    return _start(resolved, Path(out) if out else free_path(Path("runs"), name), progress)


def calibrate(
    run: RunFolder | Path | str,
    settings: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Go on from a run's weights, learning to prefer the better of its candidates, and return the new run folder.

    `tomtat.candidates.draw_candidates` makes the candidates. `settings` override the run's own, which otherwise hold;
    `out` is by default `runs/` and the run's name with `-calibrated`.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(run)
    config = calibration_config(folder.path, folder.config, settings or {})
    path = Path(out) if out else free_path(Path("runs"), f"{folder.path.resolve().name}-calibrated")
    return _start(config, path, progress or Progress())


def _start(config: RunConfig, path: Path, progress: Progress) -> RunFolder:
    RunFolder.require_free(path)
    accelerator = _accelerator(config, path)
    examples, rejects = _load_examples(config)
    candidates = load_candidates(config, examples["train"], progress)
    model = told_languages(_prepare(config), examples["train"], progress)
    _tell_losses(model, examples["train"], progress)
    require_positions(model, examples)
    data = _encode(model, examples, candidates, config)
    _tell_about(examples, data, model, config, progress)
    shards = _settle(model, data, config.model, accelerator, progress)
    progress.note(_trained_share(model))
    if accelerator.is_main_process:
        info = _info(model, data, _trained_info(model, data, config)) | {
            "config": config.model_dump(),
            "data": data_identity(examples, data.train, data.candidates) | _row_counts(data),
            "machine": machine_identity(accelerator.num_processes),
        }
        if start := start_weights(config):
            info["calibrated_from"] = start
        folder = RunFolder.create(path, config, info)
        if rejects:
            told = folder.path / "rejects.jsonl"
            write_json_lines(told, (asdict(reject) for reject in rejects))
            progress.note(f"{len(rejects):,} bad rows left out; they lie with their reasons in {told}")
    accelerator.wait_for_everyone()
    folder = RunFolder(path)
    with _lock(folder, accelerator):
        return _train(folder, config, model, data, accelerator, progress, shards)


def resume(
    path: Path | str,
    progress: Progress | None = None,
    config: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Go on with a stopped run from its newest whole checkpoint.

    Settings, data and model must be those it was started with. `config` and `settings` need not be given; where they
    are, they may differ in what no result depends on (identity.py), which is then written into the run folder.
    """
    progress = progress or Progress()
    folder = RunFolder.open(path)
    asked = load_config(config or folder.config_path, settings or {})
    accelerator = _accelerator(asked, folder.path)
    with _lock(folder, accelerator):
        info = folder.info()
        if info.get("finished"):
            progress.note(f"{folder.path} is finished already: nothing to do.")
            return folder
        if accelerator.is_main_process:
            recover_checkpoints(folder.checkpoints_path)
        accelerator.wait_for_everyone()
        state, problems = load_checkpoint(folder.checkpoints_path)
        for problem in problems:
            progress.note(f"{problem}: going on from the one before")
        _require_known(folder, info)
        require_same_settings(folder, info["config"], asked)
        examples, _ = _load_examples(asked)
        candidates = load_candidates(asked, examples["train"], progress)
        model = told_languages(_prepare(asked), examples["train"], Progress())
        data = _encode(model, examples, candidates, asked)
        require_same_model(folder, info["base"], model.source.as_dict())
        require_same_start(folder, info.get("calibrated_from"), start_weights(asked))
        require_same_data(folder, asked, info["data"], data_identity(examples, data.train, data.candidates))
        if differences := machine_differences(info["machine"], machine_identity(accelerator.num_processes)):
            progress.note(differences)
        if accelerator.is_main_process and asked != folder.config:
            write_text(folder.config_path, asked.to_toml())
        # What was chosen at the start holds to the end: measured again, a busy machine might choose otherwise.
        precision = {"float32": "fp32", "bfloat16": "bf16"}[info["precision"]]
        shards = _settle(model, data, asked.model, accelerator, progress, precision)
        return _train(folder, asked, model, data, accelerator, progress, shards, state)


def _require_known(folder: RunFolder, info: Mapping[str, Any]) -> None:
    if "config" not in info or "machine" not in info:
        raise RunError(
            f"{folder.path} was started by an older tomtat ({info.get('tomtat')}), which did not note down all that a "
            "run needs to go on. Go on with that version, or train anew with another --out."
        )


def _lock(folder: RunFolder, accelerator: Any) -> AbstractContextManager[None]:
    return folder.training_lock() if accelerator.is_main_process else nullcontext()


def _train(
    folder: RunFolder,
    config: RunConfig,
    model: SummarizerModel,
    data: TrainingData,
    accelerator: Any,
    progress: Progress,
    shards: Shards | None,
    state: dict[str, Any] | None = None,
) -> RunFolder:
    initial = _keep_initial_adapter(folder, config, model) if accelerator.is_main_process else None
    trained_info = _trained_info(model, data, config)
    trainer = Trainer(model, data, config, folder, trained_info, accelerator, progress, initial, shards)
    if state is not None:
        trainer.restore(state)
        epoch = min(trainer.place.epoch, config.train.epochs)
        progress.note(f"going on after step {trainer.place.step}, in epoch {epoch}")
    elif accelerator.is_main_process and folder.metrics_path.exists():
        folder.keep_metrics(0)  # stopped before its first checkpoint
    if config.train.trackers:
        accelerator.init_trackers("tomtat", config=_flat(config.model_dump()))
    end = trainer.run()
    if accelerator.is_main_process:
        folder.write_info({**folder.info(), "finished": True, "best_epoch": end.best_epoch, "steps": end.step})
    accelerator.wait_for_everyone()
    accelerator.end_training()  # the last thing: processes can't wait for each other after it
    return folder


def _accelerator(config: RunConfig, path: Path) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    require_known_launch(config)
    try:
        # Mixed precision is ours (models/precision.py): Accelerate is here for processes, devices and trackers.
        with fsdp_unsaid():
            return Accelerator(
                # Left to itself, it would let each process train alone where there is no GPU.
                cpu=choose_device(config.model.device).type == "cpu",
                log_with=config.train.trackers or None,
                project_config=ProjectConfiguration(project_dir=str(path), logging_dir=str(path)),
            )
    except (ValueError, ImportError) as error:
        if not config.train.trackers:
            raise
        raise ConfigError(
            f"train.trackers = {config.train.trackers}: {' '.join(str(error).split())} "
            "Trackers are packages of their own; for TensorBoard: pip install 'tomtat[tensorboard]'."
        ) from None


def _load_examples(config: RunConfig) -> tuple[dict[str, list[Example]], list[Reject]]:
    data = config.data
    options = DataOptions(data.source_field, data.summary_field, on_bad_row=data.on_bad_row)
    loaded = {"train": load(data.train, options)}
    if data.validation:
        loaded["validation"] = load(data.validation, options)
    if data.test:
        load(data.test, options)  # a slip in it should show now, not after hours of training
    rejects = [reject for part in loaded.values() for reject in part.rejects]
    return {name: part.examples for name, part in loaded.items()}, rejects


def _prepare(config: RunConfig) -> SummarizerModel:
    """The base with its trainable weights, on the CPU in fp32. The same seed gives the same initial adapter."""
    torch.manual_seed(config.seed)
    with fsdp_unsaid():
        if config.calibrate.run is not None:
            model = load_to_train_on(RunFolder.open(config.calibrate.run).trained_path)
            if config.train.method == "full":
                unfreeze(model.network, config.train)
            return model
        model = load_base(config.model, config.prompt)
        prepare_training(model, config.lora, config.train)
        return model


def _settle(
    model: SummarizerModel,
    data: TrainingData,
    settings: ModelSettings,
    accelerator: Any,
    progress: Progress,
    precision: str | None = None,
) -> Shards | None:
    """Cast the network and bring it to its device; under FSDP in shards, the whole never lies there.

    `precision` is what was found before; without it, the first process looks and all do as it does.
    """
    if precision is None:
        dtype = choose_dtype(settings.precision, choose_device(settings.device), model.model_type)
        precision = _of_first_process("bf16" if dtype == torch.bfloat16 else "fp32", accelerator)
    if accelerator.num_processes == 1:
        place(model, settings.model_copy(update={"precision": precision}))
        return None
    cast_parameters(model.network, torch.bfloat16 if precision == "bf16" else torch.float32)
    if not asks_for_fsdp():
        model.network.to(accelerator.device)
        return None
    row = data.train[0]
    shards = share_out(model.network, accelerator.device, lambda: model.loss_sum([row]), model.source.name)
    own, whole = in_words(shards.own_bytes), in_words(shards.whole_bytes)
    progress.note(f"FSDP: this process keeps {own} of the {whole} of frozen weights, and gathers a layer at a time")
    return shards


def _of_first_process(value: str, accelerator: Any) -> str:
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([value])[0])


def _encode(
    model: SummarizerModel,
    examples: dict[str, list[Example]],
    candidates: list[list[Candidate]],
    config: RunConfig,
) -> TrainingData:
    """Token ids; of several references the first is the one learned."""
    limit = config.data.max_source_tokens

    def encode(row: Example) -> Encoded:
        return model.encode(source_text(row.source), row.references[0], limit)

    validation = examples.get("validation", [])
    return TrainingData(
        LazyRows(examples["train"], encode),
        LazyRows(validation, encode),
        [row.references for row in validation],
        [[_candidate_ids(model, one) for one in row] for row in candidates],
    )


def _candidate_ids(model: SummarizerModel, candidate: Candidate) -> list[int]:
    """Without an end token where the model did not end: what makes loops bad is that they go on."""
    ids = model.target(candidate.text)
    return ids[:-1] if candidate.cut and len(ids) > 1 else ids


def _tell_losses(model: SummarizerModel, train: list[Example], progress: Progress) -> None:
    sources = [source_text(row.source) for row in train]
    for line in warnings_of(model.tokenizer, sources, [row.references[0] for row in train], model.source.name):
        progress.note(line)


def _tell_about(
    examples: Mapping[str, list[Example]],
    data: TrainingData,
    model: SummarizerModel,
    config: RunConfig,
    progress: Progress,
) -> None:
    asked, limit = config.data.max_source_tokens, _trained_info(model, data, config).max_source_tokens
    if limit < asked:
        progress.note(
            f"{model.source.name} has {model.positions.source:,} positions: of a text it reads {limit:,} tokens at "
            f"most, not the {asked:,} of data.max_source_tokens"
        )
    if cut := _rows_cut(data):
        about = "" if len(data.train) <= SAMPLE else "about "
        progress.note(
            f"{about}{cut:,} of {len(data.train):,} training texts are longer than {limit} "
            "tokens and are cut at their end (data.max_source_tokens)"
        )
    known = {source_text(row.source) for row in examples["train"]}
    validation = examples.get("validation", [])
    if seen := sum(source_text(row.source) in known for row in validation):
        progress.note(
            f"Careful: {seen:,} of {len(validation):,} validation texts are training texts too, "
            "so the validation loss says little about new ones"
        )
    if config.train.choose_by == "rouge" and not validation:
        progress.note("Careful: without data.validation no epoch can be chosen by its summaries; the last one is kept")


def _rows_cut(data: TrainingData) -> int:
    """Of the training rows; where there are many, as it is in a sample of them."""
    sample = _sample(data)
    return round(sum(row.source_was_cut for row in sample) / len(sample) * len(data.train))


def _sample(data: TrainingData) -> list[Encoded]:
    return [data.train[number] for number in spread(len(data.train), SAMPLE)]


def _trained_share(model: SummarizerModel) -> str:
    count = count_parameters(model.network)
    return (
        f"{model.source.name}: training {count.trainable:,} of {count.total:,} weights ({100 * count.share:.2f} %), "
        f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    )


def _trained_info(model: SummarizerModel, data: TrainingData, config: RunConfig) -> TrainedInfo:
    generate = config.generate
    lengths = [len(row.target_ids) for row in _sample(data)]
    limit = int(1.25 * float(np.percentile(lengths, 99))) + 1
    decoding = decoding_of(generate, limit, config.seed)
    if model.positions.target:
        decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, model.positions.target))
    return TrainedInfo(
        method=config.train.method,
        base=model.source.as_dict(),
        prompt=model.prompt,
        max_source_tokens=_source_limit(model, config, decoding.max_new_tokens),
        decoding=decoding,
        limits=limits_of(generate),
        long_inputs=generate.long_inputs,
    )


def _source_limit(model: SummarizerModel, config: RunConfig, summary_tokens: int) -> int:
    """data.max_source_tokens, or less where the model has positions for less."""
    room = model.source_room(summary_tokens)
    return config.data.max_source_tokens if room is None else min(config.data.max_source_tokens, room)


def _keep_initial_adapter(folder: RunFolder, config: RunConfig, model: SummarizerModel) -> Path | None:
    """The adapter before training, where its initialisation changed the base: saving needs the difference."""
    if config.calibrate.run is not None:
        return None  # what is gone on from was saved as plain LoRA
    if config.train.method != "lora" or not changes_base(config.lora.init):
        return None
    path = folder.path / "initial_adapter"
    if not path.exists():
        with replace_folder(path) as new:
            save_adapter(model.peft, new)
    return path


def _info(model: SummarizerModel, data: TrainingData, trained_info: TrainedInfo) -> dict[str, Any]:
    count = count_parameters(model.network)
    return {
        "tomtat": version("tomtat"),
        "base": model.source.as_dict(),
        "precision": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "parameters": {
            "total": count.total,
            "trainable": count.trainable,
            "share": count.share,
            "modules": [asdict(module) for module in count.modules],
        },
        "max_new_tokens": trained_info.decoding.max_new_tokens,
        "python": platform.python_version(),
        "finished": False,
    }


def _row_counts(data: TrainingData) -> dict[str, int]:
    return {
        "train_rows": len(data.train),
        "validation_rows": len(data.validation),
        "train_rows_cut": _rows_cut(data),
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted names with plain values, as trackers want them."""
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in flat(values).items()
    }
