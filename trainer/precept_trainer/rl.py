"""Reinforcement learning with TRL's GRPOTrainer and a judge behind HTTP."""

import json
import logging
import os
import random
import time
import urllib.error
import urllib.request
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerState, set_seed
from trl import GRPOConfig, GRPOTrainer

from precept_trainer import loop
from precept_trainer.job import Reward, Rl
from precept_trainer.model import device_of, freeze_below, load, load_tokenizer
from precept_trainer.protocol import Events, JobError, StopRequest, invalid
from precept_trainer.sft import messages, read_rows

_COLUMNS = ["prompt", "prompt_id", "category", "intent", "language", "source"]


def run(job: Rl, events: Events, stop: StopRequest) -> int:
    """Trains against the judge and returns the exit code."""
    if job.processes > 1:
        # Each would ask for the rewards of its own part of a step, and the server takes a step as one.
        raise invalid(f"processes is {job.processes}: RL trains in one process")
    set_seed(job.seed)
    device = device_of(job.device, job.threads)
    batch = job.prompts_per_step * job.num_generations
    if batch % job.gradient_accumulation:
        raise invalid(
            f"gradient_accumulation {job.gradient_accumulation} does not divide the {batch} completions of a step "
            "(prompts_per_step × num_generations)"
        )
    args = settings(job, device)
    tokenizer = load_tokenizer(job.base)
    rows = read_rows(job.data, _COLUMNS)
    for number, row in enumerate(rows):
        row["prompt"] = messages(row["prompt"], number)
    rows = in_turn(rows, job.seed)
    model = load(job.base)
    freeze_below(model, job.trainable_layers)
    loop.score_labelled_tokens_only()
    # TRL's warning about a completion without a reward quotes the prompt.
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)

    judge = Judge(job.reward, tokenizer, stop)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge.rewards,
        args=args,
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
        },
    )
    return loop.train(job, trainer, reporter, tokenizer, events, stop)


def settings(job: Rl, device: torch.device) -> GRPOConfig:
    """TRL's configuration for the job."""
    return loop.settings(
        "rl",
        GRPOConfig,
        job,
        device,
        {
            "max_steps": job.steps,
            # One generation feeds one step, so that every checkpoint lies between two generations.
            "per_device_train_batch_size": job.prompts_per_step * job.num_generations // job.gradient_accumulation,
            "steps_per_generation": job.gradient_accumulation,
            "num_generations": job.num_generations,
            "max_completion_length": job.max_completion_length,
            "temperature": job.temperature,
            "beta": job.beta,
            "loss_type": job.loss_type,
            "scale_rewards": job.scale_rewards,
            "epsilon": job.epsilon,
            "epsilon_high": job.epsilon_high,
            "mask_truncated_completions": job.mask_truncated_completions,
            "shuffle_dataset": False,
            "log_completions": False,
            "num_completions_to_print": 0,
        },
        {},
    )


def in_turn(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Shuffles the prompts so that the intents take turns.

    A step sees few prompts. Where most of them happen to be benign, it teaches to comply, whatever the judge says.
    """
    draw = random.Random(seed)  # noqa: S311 - an order of rows is no secret
    by_intent: dict[str, list[dict[str, Any]]] = {}
    for row in draw.sample(rows, len(rows)):
        by_intent.setdefault(row["intent"], []).append(row)
    longest = max(map(len, by_intent.values()))
    # A shorter list is stretched over the whole, so that its rows don't run out early.
    order = sorted(
        ((place + 0.5) / len(group) * longest, intent, place)
        for intent, group in by_intent.items()
        for place in range(len(group))
    )
    return [by_intent[intent][place] for _, intent, place in order]


class Judge:
    """Asks the reward server about the completions of a step."""

    def __init__(self, reward: Reward, tokenizer: PreTrainedTokenizerBase, stop: StopRequest) -> None:
        token = os.environ.get(reward.token_env, "")
        if not token:
            raise invalid(f"the reward token is missing: set {reward.token_env}")
        self._reward, self._token = reward, token
        self._tokenizer = tokenizer
        self._stop = stop

    def rewards(
        self,
        prompts: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        category: list[str],
        intent: list[str],
        language: list[str],
        source: list[str],
        trainer_state: TrainerState,
        **_: Any,
    ) -> list[float | None]:
        """TRL's reward function: one reward a completion, None where the judge gave none."""
        step = trainer_state.global_step
        texts = map(self._text, completion_ids)
        items = [
            {"prompt_id": i, "category": c, "intent": n, "language": g, "source": s, "prompt": p, "completion": t}
            for i, c, n, g, s, p, t in zip(prompt_id, category, intent, language, source, prompts, texts, strict=True)
        ]
        rewards = self._ask({"step": step, "items": items})
        if loop.any_process(rewards is None) or rewards is None:
            raise loop.Interrupted
        if all(reward is None for reward in rewards):
            # A step without a reward teaches nothing; a run of such steps would look like a trained model.
            raise JobError("Unavailable", f"the judge scored none of the {len(rewards)} completions of step {step}")
        return rewards

    def _text(self, ids: list[int]) -> str:
        """The text up to the end of sequence.

        Special tokens stay: in some tokenizers the tags around the chain of thought are such, and without them it
        would pass for the answer.
        """
        end = self._tokenizer.eos_token_id
        return str(self._tokenizer.decode(ids[: ids.index(end)] if end in ids else ids, skip_special_tokens=False))

    def _ask(self, body: dict[str, Any]) -> list[float | None] | None:
        """The rewards; None where the job is to end without them."""
        request = urllib.request.Request(
            self._reward.url,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        deadline = time.monotonic() + self._reward.timeout_s
        where = f"reward server at step {body['step']}"
        for attempt in range(100):
            if self._stop:
                return None
            try:
                with self._open(request, max(deadline - time.monotonic(), 1)) as answer:
                    return _rewards(json.load(answer), len(body["items"]), where)
            except urllib.error.HTTPError as err:
                if err.code == 410:
                    return None
                if err.code not in (429, 500, 502, 503, 504):
                    raise JobError("Internal", f"{where}: HTTP {err.code}") from err
                last: Exception = err
            except (OSError, ValueError) as err:
                last = err
            pause = min(0.2 * 2**attempt, 5.0)
            if time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        raise JobError("Unavailable", f"{where}: {last}") from last

    def _open(self, request: urllib.request.Request, timeout: float) -> Any:
        # No proxy: the server is on this host, and the token is for it alone.
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


def _rewards(answer: Any, count: int, where: str) -> list[float | None]:
    rewards = answer.get("rewards") if isinstance(answer, dict) else None
    if not isinstance(rewards, list) or len(rewards) != count:
        raise JobError("Internal", f"{where}: the answer must hold {count} rewards")
    if not all(r is None or (isinstance(r, int | float) and not isinstance(r, bool)) for r in rewards):
        raise JobError("Internal", f"{where}: a reward is a number or null")
    return [None if r is None else float(r) for r in rewards]
