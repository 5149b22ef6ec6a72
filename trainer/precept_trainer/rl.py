"""Reinforcement learning with TRL's GRPOTrainer and a judge behind HTTP."""

import importlib.util
import json
import logging
import math
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
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
    model = load(job.base, tokenizer)
    freeze_below(model, job.trainable_layers)
    loop.score_labelled_tokens_only()
    # TRL's warning about a completion without a reward quotes the prompt.
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)

    judge = Judge(job.reward, tokenizer, stop)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge.functions(),
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
    if job.trainer.get("use_vllm") and importlib.util.find_spec("vllm") is None:
        raise invalid("rl.trainer.use_vllm: vLLM is not installed beside the trainer")
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
            "reward_weights": list(job.reward.weights.values()),
            "ddp_timeout": collective_timeout(job.reward),
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


def collective_timeout(reward: Reward) -> int:
    """Seconds that processes wait for each other: each asks for the rewards of its own completions, and the first one
    that has them must not give the last one up."""
    return max(1800, math.ceil(reward.timeout_s) + 300)


RewardFunction = Callable[..., list[float | None]]


class Judge:
    """Asks the reward server about the completions of a step that this process drew."""

    def __init__(self, reward: Reward, tokenizer: PreTrainedTokenizerBase, stop: StopRequest) -> None:
        token = os.environ.get(reward.token_env, "")
        if not token:
            raise invalid(f"the reward token is missing: set {reward.token_env}")
        self._reward, self._token = reward, token
        self._tokenizer = tokenizer
        self._stop = stop
        self._terms: dict[str, list[float | None]] = {}

    def functions(self) -> list[RewardFunction]:
        """TRL's reward functions: one a term, which TRL logs apart over all processes.

        They are called in this order. The first asks, and the others tell what it was answered. A completion that has
        no reward has no term either: TRL sums over the terms that are there, so that a missing one would count as 0.
        """
        return [self._function(number, term) for number, term in enumerate(self._reward.weights)]

    def _function(self, number: int, term: str) -> RewardFunction:
        def scores(**step: Any) -> list[float | None]:
            if number == 0:
                self._terms = self._ask_about(**step)
            return self._terms[term]

        scores.__name__ = term
        return scores

    def _ask_about(
        self,
        prompts: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        category: list[str],
        intent: list[str],
        language: list[str],
        source: list[str],
        trainer_state: TrainerState,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> dict[str, list[float | None]]:
        """The terms, each with one score a completion, None where there is no reward."""
        end = self._tokenizer.eos_token_id
        columns = zip(prompt_id, category, intent, language, source, prompts, completion_ids, strict=True)
        items = [
            {
                "prompt_id": i,
                "category": c,
                "intent": n,
                "language": g,
                "source": s,
                "prompt": p,
                "completion": self._text(ids),
                "cut": end not in ids,
            }
            for i, c, n, g, s, p, ids in columns
        ]
        ranks = {"rank": int(os.environ.get("RANK", "0")), "ranks": int(os.environ.get("WORLD_SIZE", "1"))}
        answer = self._ask({"step": trainer_state.global_step, **ranks, "items": items})
        if loop.any_process(answer is None) or answer is None:
            raise loop.Interrupted
        # One value a completion, so that TRL's mean over processes is one over completions.
        for name, reward in zip(category, answer["rewards"], strict=True):
            if reward is not None:
                log_metric(f"reward/{name}", reward)
        return answer

    def _text(self, ids: list[int]) -> str:
        """The text up to the end of sequence.

        Special tokens stay: in some tokenizers the tags around the chain of thought are such, and without them it
        would pass for the answer.
        """
        end = self._tokenizer.eos_token_id
        return str(self._tokenizer.decode(ids[: ids.index(end)] if end in ids else ids, skip_special_tokens=False))

    def _ask(self, body: dict[str, Any]) -> dict[str, list[float | None]] | None:
        """The terms, and "rewards", their weighted sum; None where the job is to end without them."""
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
                    return _columns(json.load(answer), self._reward.weights, len(body["items"]), where)
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


def _columns(answer: Any, terms: Iterable[str], count: int, where: str) -> dict[str, list[float | None]]:
    """Checks an answer: rewards and terms have a number or null for each completion."""
    if not isinstance(answer, dict) or not isinstance(answer.get("terms"), dict):
        raise JobError("Internal", f"{where}: the answer must hold rewards and terms")
    columns = {term: answer["terms"].get(term) for term in terms} | {"rewards": answer.get("rewards")}
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != count:
            raise JobError("Internal", f"{where}: the answer must hold {count} values of {name}")
        if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
            raise JobError("Internal", f"{where}: a value of {name} is a number or null")
    return {name: [None if v is None else float(v) for v in values] for name, values in columns.items()}
