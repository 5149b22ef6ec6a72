"""Supervised fine-tuning with TRL's SFTTrainer."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from precept_trainer import loop
from precept_trainer.job import Sft
from precept_trainer.model import device_of, freeze_below, load, load_tokenizer
from precept_trainer.protocol import Events, StopRequest, invalid

_COLUMNS = ["prompt", "completion"]

Row = dict[str, list[int]]
"""Token IDs and labels."""


def run(job: Sft, events: Events, stop: StopRequest) -> int:
    """Trains on the rows of the job and returns the exit code."""
    set_seed(job.seed)
    device = device_of(job.device, job.threads)
    args = settings(job, device)
    tokenizer = load_tokenizer(job.base)
    rows = tokenize(read_rows(job.data, _COLUMNS), tokenizer, job.max_length)
    mixed, too_long = fitting(tokenize(read_rows(job.mix, _COLUMNS), tokenizer), job.max_length) if job.mix else ([], 0)
    rows, held_out = split(rows + mixed, job.held_out)
    model = load(job.base, tokenizer)
    freeze_below(model, job.trainable_layers)
    loop.score_labelled_tokens_only()

    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        peft_config=loop.lora_config(job.lora, model),
    )
    reporter = loop.Reporter(
        events,
        stop,
        {
            "rows": len(rows),
            "held_out": len(held_out),
            "too_long": too_long,
            "trainable_params": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "tokens_per_epoch": sum(len(row["input_ids"]) for row in rows),
        },
    )
    patience = loop.Patience(job.patience) if job.patience else None
    return loop.train(job, trainer, reporter, tokenizer, events, stop, patience)


def settings(job: Sft, device: torch.device) -> SFTConfig:
    """TRL's configuration for the job."""
    if job.patience and not job.held_out:
        raise invalid("patience counts evaluations of held-out rows: set held_out")
    return loop.settings(
        "sft",
        SFTConfig,
        job,
        device,
        {
            "num_train_epochs": job.epochs,
            "per_device_train_batch_size": job.batch_size,
            "per_device_eval_batch_size": job.batch_size,
            "packing": job.packing,
            "eval_packing": False,
            # Else nothing is cut: longer rows were refused.
            "max_length": job.max_length if job.packing else None,
            "eval_strategy": "steps" if job.held_out else "no",
            "eval_steps": job.save_steps,
        },
        {"train_sampling_strategy": "group_by_length" if job.group_by_length and not job.packing else "random"},
    )


def split(
    rows: list[dict[str, list[int]]], share: float
) -> tuple[list[dict[str, list[int]]], list[dict[str, list[int]]]]:
    """The rows to train on, and the share that is held out: those with the lowest hashes, whatever their order."""
    if not share:
        return rows, []
    count = max(1, round(share * len(rows)))
    if count >= len(rows):
        raise invalid(f"held_out {share} leaves none of {len(rows)} rows to train on")
    marks = [hashlib.sha256(repr(row["input_ids"]).encode()).digest() for row in rows]
    out = set(sorted(range(len(rows)), key=lambda number: (marks[number], number))[:count])
    return [row for n, row in enumerate(rows) if n not in out], [rows[n] for n in sorted(out)]


def read_rows(paths: list[str], columns: list[str]) -> list[dict[str, Any]]:
    """The rows of Parquet files, of which only these columns are read."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            rows += pq.read_table(path, columns=columns).to_pylist()
        except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as err:
            raise invalid(f"data {path}: {err}") from err
    if not rows:
        raise invalid(f"data {', '.join(paths)}: no rows")
    return rows


def fitting(rows: list[Row], max_length: int) -> tuple[list[Row], int]:
    """The rows of at most so many tokens, and how many others there are."""
    fit = [row for row in rows if len(row["input_ids"]) <= max_length]
    return fit, len(rows) - len(fit)


def tokenize(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> list[Row]:
    """Token IDs, and labels for the completion alone.

    Prompt and completion are tokenized apart, as they are when the model writes the completion itself. The completion
    ends with the end-of-sequence token: what a template puts behind it is never generated.
    """
    tokenized: list[Row] = []
    longest = too_long = 0
    for number, row in enumerate(rows):
        prompt_text, completion_text = _render(row, number, tokenizer)
        prompt = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
        completion = tokenizer(completion_text, add_special_tokens=False)["input_ids"]
        while completion and completion[-1] != tokenizer.eos_token_id:
            completion.pop()
        if not completion:
            raise invalid(f"row {number}: the chat template puts no end-of-sequence token behind the completion")
        length = len(prompt) + len(completion)
        longest, too_long = max(longest, length), too_long + (max_length is not None and length > max_length)
        tokenized.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    if too_long:
        raise invalid(
            f"{too_long} of {len(rows)} rows are longer than max_length {max_length}, the longest has {longest} "
            "tokens: raise max_length or drop them, rows are not cut"
        )
    return tokenized


def _render(row: dict[str, Any], number: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    prompt, completion = messages(row["prompt"], number), messages(row["completion"], number)
    prompt_text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    if not text.startswith(prompt_text):
        raise invalid(f"row {number}: the chat template renders the prompt differently when a completion follows")
    completion_text = text[len(prompt_text) :]
    for message in completion:
        for part in ("content", "reasoning_content"):
            if message.get(part, "").strip() not in completion_text:
                raise invalid(f"row {number}: the chat template drops the {part} of the completion")
    return prompt_text, completion_text


def messages(value: Any, number: int) -> list[dict[str, str]]:
    """Chat messages as a template takes them: absent fields are absent, not null."""
    if not value or not all(isinstance(m, dict) and m.get("role") and m.get("content") is not None for m in value):
        raise invalid(f"row {number}: prompt and completion must be lists of messages with role and content")
    return [{k: v for k, v in message.items() if v is not None} for message in value]
