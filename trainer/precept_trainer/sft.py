"""Supervised fine-tuning with TRL's SFTTrainer."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from precept_trainer import loop
from precept_trainer.job import Sft
from precept_trainer.model import device_of, freeze_below, load, load_tokenizer
from precept_trainer.protocol import Events, StopRequest, invalid


def run(job: Sft, events: Events, stop: StopRequest) -> int:
    """Trains on the rows of the job and returns the exit code."""
    set_seed(job.seed)
    device = device_of(job.device, job.threads)
    tokenizer = load_tokenizer(job.base)
    rows = tokenize(read_rows(job.data, ["prompt", "completion"]), tokenizer, job.max_length)
    model = load(job.base)
    freeze_below(model, job.trainable_layers)
    loop.score_labelled_tokens_only()

    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **loop.settings(job, device),
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            max_length=None,  # nothing is cut: longer rows were refused
            train_sampling_strategy="group_by_length" if job.group_by_length else "random",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=loop.lora_config(job.lora, model),
    )
    reporter = loop.Reporter(
        events,
        stop,
        {
            "rows": len(rows),
            "trainable_params": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "tokens_per_epoch": sum(len(row["input_ids"]) for row in rows),
        },
    )
    return loop.train(job, trainer, reporter, tokenizer, events, stop)


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


def tokenize(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    """Token IDs, and labels for the completion alone.

    Prompt and completion are tokenized apart, as they are when the model writes the completion itself. The completion
    ends with the end-of-sequence token: what a template puts behind it is never generated.
    """
    tokenized: list[dict[str, list[int]]] = []
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
        longest, too_long = max(longest, length), too_long + (length > max_length)
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
