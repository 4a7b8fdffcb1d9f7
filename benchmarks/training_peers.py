"""What else a user could train with: Transformers' Seq2SeqTrainer and TRL's SFTTrainer, each with PEFT.

Both get token ids, so that they train on exactly our rows. Untuned they are as they come, in fp32 as the notebooks have
them (TRL 1.16 by itself would autocast to bf16, and does checkpoint gradients). Tuned they are as well set as we could
find (LOG.md has what was tried): base and adapter in bf16 without autocast, eager attention, no checkpointing, rows of
like lengths together.
"""

import time
from pathlib import Path
from typing import Any


def train(job: dict[str, Any], rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Train on rows of `prompt` and `target` ids, save the adapter in `job["out"]`, and say how long that took."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    torch.manual_seed(0)
    tuned, is_seq2seq = job["tuned"], AutoConfig.from_pretrained(job["base"]).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    # Torch's flash attention multiplies in fp32 on a CPU, also what is bf16: the plain one is faster there.
    network = kind.from_pretrained(
        job["base"],
        dtype=torch.bfloat16 if tuned else torch.float32,
        attn_implementation="eager" if tuned else "sdpa",
    )
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules=job["peft_target"], task_type="SEQ_2_SEQ_LM" if is_seq2seq else "CAUSAL_LM"
    )
    model = get_peft_model(network, lora, autocast_adapter_dtype=not tuned)
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    trainer = (_seq2seq if is_seq2seq else _causal)(job, model, tokenizer, rows, _arguments(job))
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    if job["out"]:
        model.save_pretrained(job["out"])
    return {"seconds": seconds}


def _arguments(job: dict[str, Any]) -> dict[str, Any]:
    tuned = {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": False}
    return {
        "output_dir": str(Path(job["folder"]) / "trainer"),
        "per_device_train_batch_size": job["batch"],
        "num_train_epochs": job["epochs"],
        "learning_rate": job["rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "torch_compile": job["tuned"] and job.get("compile", False),
        "bf16": False,
        **(tuned if job["tuned"] else {}),
    }


def _seq2seq(job: dict[str, Any], model: Any, tokenizer: Any, rows: list[Any], arguments: dict[str, Any]) -> Any:
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    source, target = job["limits"]
    collator = DataCollatorForSeq2Seq(tokenizer, model)
    data = [
        {"input_ids": row["prompt"], "attention_mask": [1] * len(row["prompt"]), "labels": row["target"]}
        for row in rows
    ]
    if not job["tuned"]:
        # As the notebook does: everything padded to the limits beforehand, labels with tokens that don't count.
        for row in data:
            fill = source - len(row["input_ids"])
            row["input_ids"] = row["input_ids"] + [tokenizer.pad_token_id] * fill
            row["attention_mask"] = row["attention_mask"] + [0] * fill
            row["labels"] = row["labels"] + [-100] * (target - len(row["labels"]))
    return Seq2SeqTrainer(
        model, Seq2SeqTrainingArguments(**arguments), data_collator=collator, train_dataset=Dataset.from_list(data)
    )


def _causal(job: dict[str, Any], model: Any, tokenizer: Any, rows: list[Any], arguments: dict[str, Any]) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = [
        {
            "input_ids": row["prompt"] + row["target"],
            "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["target"]),
        }
        for row in rows
    ]
    config = SFTConfig(**arguments, completion_only_loss=True, max_length=None)
    return SFTTrainer(model, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
