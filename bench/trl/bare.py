"""SFT as the shortest TRL script does it: what a training job of Precept is measured against.

Reads prompt/completion rows from Parquet, trains the upper layers of a model and prints how long its steps took, from
the first log to the last. Settings are those of the job that it is compared with.
"""

import argparse
import json
import time

import torch
import trl.trainer.utils as trl_utils
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--output", required=True)
parser.add_argument("--layers", type=int, default=15)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--save-steps", type=int, default=5)
parser.add_argument("--labelled-only", action="store_true", help="score labelled tokens alone, as Precept does on a CPU")
args = parser.parse_args()

if args.labelled_only:
    trl_utils._use_triton = lambda _device: True

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
model.requires_grad_(False)
for part in (*model.model.layers[-args.layers :], model.model.norm):
    part.requires_grad_(True)


class Clock(TrainerCallback):
    """When steps were logged."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_log(self, _args, _state, _control, logs=None, **_) -> None:
        if logs and "loss" in logs:
            self.times.append(time.monotonic())


rows = load_dataset("parquet", data_files=args.data, split="train").select_columns(["prompt", "completion"])
clock = Clock()
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=args.output, seed=1, num_train_epochs=1, per_device_train_batch_size=args.batch, learning_rate=1e-4,
        warmup_steps=0.05, save_strategy="steps", save_steps=args.save_steps, save_total_limit=3, logging_steps=1,
        report_to="none", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
        train_sampling_strategy="group_by_length",
    ),
    train_dataset=Dataset.from_list(rows.to_list()),
    processing_class=tokenizer,
    callbacks=[clock],
)
trainer.train()
print(json.dumps({"steps": len(clock.times), "seconds": clock.times[-1] - clock.times[0]}))
