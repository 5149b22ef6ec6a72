"""What SFT and RL share: TRL's settings, progress, checkpoints, the way a run ends."""

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl.trainer.utils as trl_utils
from peft import LoraConfig
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from precept_trainer import further
from precept_trainer.job import Lora, Training
from precept_trainer.milestones import Milestones
from precept_trainer.model import decoder_layers, save
from precept_trainer.protocol import EXIT_DONE, EXIT_INTERRUPTED, Events, JobError, StopRequest, invalid

MARKER = "complete.json"
_SAY_EVERY_S = 10
_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def settings(
    kind: str, config: type, job: Training, device: torch.device, own: dict[str, Any], defaults: dict[str, Any]
) -> Any:
    """TRL's configuration for the job: what SFT and RL have in common, what is the kind's own, and what the job says
    further."""
    return further.settings(
        kind,
        config,
        {
            "output_dir": job.checkpoints,
            "seed": job.seed,
            "learning_rate": job.learning_rate,
            "gradient_accumulation_steps": job.gradient_accumulation,
            "use_cpu": device.type == "cpu",
            "bf16": job.dtype == "bfloat16",
            "save_strategy": "steps",
            "save_steps": job.save_steps,
            "save_total_limit": job.keep_checkpoints,
            "logging_strategy": "steps",
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # it would show a mean in place of a loss that is NaN
            "report_to": job.report_to or "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": device.type == "cuda",
            **own,
        },
        {
            # A share below 1, a count from 1 on.
            "warmup_steps": job.warmup_ratio if job.warmup_ratio < 1 else 0.999,
            "lr_scheduler_type": job.lr_scheduler,
            "weight_decay": job.weight_decay,
            "max_grad_norm": job.max_grad_norm,
            "gradient_checkpointing": job.gradient_checkpointing,
            **defaults,
        },
        job.trainer,
    )


def lora_config(lora: Lora | None, model: PreTrainedModel) -> LoraConfig | None:
    if lora is None:
        return None
    layers = decoder_layers(model)
    upper = lora.layers or layers
    if upper > layers:
        raise invalid(f"lora.layers is {upper} and the model has {layers} layers")
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=_LINEAR_LAYERS,
        layers_to_transform=list(range(layers - upper, layers)),
        task_type="CAUSAL_LM",
    )


def score_labelled_tokens_only() -> None:
    """Keeps TRL's loss from projecting prompt and padding onto the vocabulary.

    TRL leaves out positions without a label where Triton runs and scores every position elsewhere, for devices that
    compile once a shape. A CPU compiles nothing, and there it is most of the loss's cost. The kernels still choose by
    themselves between Triton and torch.
    """
    if not hasattr(trl_utils, "_use_triton"):
        raise JobError("Internal", "this TRL has no _use_triton: install the versions of requirements.txt")
    trl_utils._use_triton = lambda _device: True


class Interrupted(Exception):
    """The job is to end while a step is under way. The step is given up."""


class Draws:
    """Where the random number generators stand."""

    def __init__(self) -> None:
        self._python, self._numpy, self._cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns what the trainer does into events and a request to stop into a checkpoint."""

    def __init__(self, events: Events, stop: StopRequest, start: dict[str, Any]) -> None:
        self._events, self._stop, self._start = events, stop, start
        self._began = self._last_time = time.monotonic()
        self._last_tokens = self._said = 0.0
        self.metrics: dict[str, float] = {}
        self.checkpoint = ""
        self.draws: Draws | None = None  # as the last finished step left them

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = self._last_time = time.monotonic()
        self._events.emit("start", total_steps=state.max_steps, step=state.global_step, **self._start)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.draws = Draws()
        if any_process(bool(self._stop)):
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "eval_loss" in logs:
            self._events.emit("evaluation", step=state.global_step, metrics={"eval_loss": float(logs["eval_loss"])})
        if not logs or "loss" not in logs:  # the summary at the end
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise JobError("Internal", f"the loss at step {state.global_step} is {loss}: lower the learning rate")
        self.metrics = {k: float(v) for k, v in logs.items() if isinstance(v, int | float)}
        now, tokens = time.monotonic(), self.metrics.get("num_tokens", 0.0)
        rate = (tokens - self._last_tokens) / max(now - self._last_time, 1e-9)
        self._last_time, self._last_tokens = now, tokens
        self._events.emit(
            "progress",
            step=state.global_step,
            total_steps=state.max_steps,
            loss=loss,
            metrics={k: v for k, v in self.metrics.items() if k != "loss"},
            tokens_per_second=round(rate, 1),
            elapsed_s=round(now - self._began, 3),
        )

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if time.monotonic() > self._said + _SAY_EVERY_S:  # so that a long evaluation isn't taken for a hang
            self._said = time.monotonic()
            self._events.emit("evaluating", step=state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        any_process(False)  # returns once all have written their part
        if state.is_world_process_zero:
            mark_complete(folder, state.global_step)
        self.checkpoint = str(folder)
        self._events.emit("checkpoint", step=state.global_step, path=self.checkpoint)


class Patience(TrainerCallback):  # type: ignore[misc]
    """Ends training once so many evaluations in a row have brought no new lowest loss.

    What is known lies in the trainer's own log, so that a job that goes on from a checkpoint counts on.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.ended = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self._judge(state):
            control.should_save = control.should_training_stop = True
        return control

    def is_over(self, checkpoint: str) -> bool:
        """Whether training had ended when the checkpoint was saved."""
        return self._judge(TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json")))

    def _judge(self, state: TrainerState) -> bool:
        losses = [float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry]
        best = min(range(len(losses)), key=losses.__getitem__, default=0)
        self.ended = len(losses) - 1 - best >= self._patience
        return self.ended


def any_process(stop: bool) -> bool:
    # All ranks must stop at the same step, or those that go on wait for the others for ever.
    if not torch.distributed.is_initialized():
        return stop
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor([int(stop)], device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def mark_complete(folder: Path, step: int) -> None:
    """Lists the files of a checkpoint with their sizes, in a file that is written last."""
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MARKER, None)
    partial = folder / (MARKER + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        json.dump({"step": step, "files": files}, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(folder / MARKER)


def is_complete(folder: Path) -> bool:
    """Whether everything that the marker lists is there in full."""
    try:
        files = json.loads((folder / MARKER).read_bytes())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def checkpoint_to_resume(wanted: str) -> str | None:
    """The checkpoint that `resume_from` means; None where there is none to resume from."""
    if not wanted:
        return None
    folder = Path(wanted)
    if is_complete(folder):
        return wanted
    if (folder / "trainer_state.json").exists() or folder.name.startswith("checkpoint-"):
        raise invalid(f"checkpoint {wanted} is incomplete: resume from an older one, or from none")
    found = [p for p in folder.glob("checkpoint-*") if is_complete(p)]
    return str(max(found, key=lambda p: int(p.name.rpartition("-")[2]))) if found else None


def train(
    job: Training,
    trainer: Trainer,
    reporter: Reporter,
    tokenizer: PreTrainedTokenizerBase,
    events: Events,
    stop: StopRequest,
    patience: Patience | None = None,
) -> int:
    """Trains from base or checkpoint to the end or to a request to stop, and writes the model."""
    resumed = checkpoint_to_resume(job.resume_from)
    if stop:
        events.emit("interrupted", step=0, checkpoint=resumed or "")
        return EXIT_INTERRUPTED
    trainer.add_callback(Milestones(job, trainer, tokenizer, events))
    trainer.add_callback(reporter)
    if patience is not None:
        trainer.add_callback(patience)
    try:
        if patience is not None and resumed and patience.is_over(resumed):
            trainer.state = TrainerState.load_from_json(str(Path(resumed) / "trainer_state.json"))
            trainer._load_from_checkpoint(resumed)
            reporter.on_train_begin(trainer.args, trainer.state, trainer.control)
        else:
            trainer.train(resume_from_checkpoint=resumed)
    except Interrupted:
        events.emit("interrupted", step=trainer.state.global_step, checkpoint=_save(trainer, reporter) or resumed or "")
        return EXIT_INTERRUPTED

    step, total = trainer.state.global_step, trainer.state.max_steps
    if step < total and not (patience is not None and patience.ended):
        if not reporter.checkpoint:
            raise JobError("Internal", f"training ended at step {step} of {total} with no checkpoint")
        events.emit("interrupted", step=step, checkpoint=reporter.checkpoint)
        return EXIT_INTERRUPTED
    if step == 0:
        raise JobError("Internal", "training ended before its first step")
    model = trainer.accelerator.unwrap_model(trainer.model)
    if job.lora is not None:
        model = model.merge_and_unload()
    if trainer.is_world_process_zero():
        save(model, tokenizer, job.output)
    trainer.accelerator.wait_for_everyone()
    events.emit("done", path=job.output, steps=step, metrics=reporter.metrics)
    return EXIT_DONE


def _save(trainer: Trainer, reporter: Reporter) -> str:
    """Leaves a checkpoint of the last finished step, which the one under way hasn't changed; "" where none finished."""
    if reporter.draws is None:
        return ""
    if Path(reporter.checkpoint).name != f"checkpoint-{trainer.state.global_step}":
        # The step that was given up is drawn again as it was: what was asked about it is known then.
        reporter.draws.restore()
        trainer._save_checkpoint(trainer.model, None)
        trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    return reporter.checkpoint
