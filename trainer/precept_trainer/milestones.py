"""Milestones: the weights on the way through a job, each written as a model of its own, for the best to be chosen."""

import copy
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from precept_trainer.job import Training
from precept_trainer.model import save
from precept_trainer.protocol import Events


class Milestones(TrainerCallback):  # type: ignore[misc]
    """Writes a model at equal shares of the steps. The last share ends with the job, which writes that model itself."""

    def __init__(self, job: Training, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, events: Events) -> None:
        self._job, self._trainer, self._tokenizer, self._events = job, trainer, tokenizer, events

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step not in steps(self._job.milestones, state.max_steps):
            return
        folder = f"{self._job.output}-{state.global_step}"
        if state.is_world_process_zero:
            save(self._weights(), self._tokenizer, folder)
        self._events.emit("milestone", step=state.global_step, path=folder)

    def _weights(self) -> PreTrainedModel:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        # Adapters are merged into a copy: taken out again, they would leave rounded weights behind.
        return model if self._job.lora is None else copy.deepcopy(model).merge_and_unload()


def steps(milestones: int, total: int) -> set[int]:
    """The steps at whose end a model is written, but for the last; fewer where there are fewer steps."""
    return {round(total * k / milestones) for k in range(1, milestones)} - {0, total}
