from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import RewardServer, call
from transformers import AutoModelForCausalLM, AutoTokenizer

from precept_trainer import loop
from precept_trainer.job import Reward
from precept_trainer.protocol import StopRequest
from precept_trainer.rl import Judge, collective_timeout, in_turn

Serve = Callable[..., RewardServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("PRECEPT_REWARD_TOKEN", "secret")
    started: list[RewardServer] = []

    def serve(answer: Callable[[int], list[float | None]], failures: int = 0) -> RewardServer:
        started.append(RewardServer(answer, failures))
        return started[-1]

    yield serve
    for server in started:
        server.close()


def job(model: Path, data: Path, folder: Path, url: str, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": [str(data)],
        "output": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "reward": {"url": url, "timeout_s": 2, "weights": RewardServer.weights},
        "steps": 2,
        "num_generations": 4,
        "prompts_per_step": 2,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "mask_truncated_completions": False,
        "device": "cpu",
        **changes,
    }


def one_missing(count: int) -> list[float | None]:
    return [None, *(float(i % 2) for i in range(1, count))]


def test_trains_on_the_judges_rewards(model: Path, rl_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(one_missing, failures=1)
    events, code = call("rl", job(model, rl_data, tmp_path, server.url, milestones=2), tmp_path)

    assert code == 0, events
    assert events[-1] == {**events[-1], "event": "done", "steps": 2}
    assert [(e["step"], e["path"]) for e in events if e["event"] == "milestone"] == [(1, str(tmp_path / "out-1"))]
    assert [e["step"] for e in events if e["event"] == "checkpoint"] == [1, 2]
    progress = [e for e in events if e["event"] == "progress"]
    metrics = progress[0]["metrics"]
    assert metrics["reward"] == pytest.approx(4 / 7)  # the missing one is no zero
    assert metrics["reward/violence"] == pytest.approx(4 / 7)
    assert metrics["rewards/compliance/mean"] == pytest.approx((4 / 7 - 0.125) / 0.75)
    assert metrics["rewards/compliance/std"] == pytest.approx(metrics["reward_std"] / 0.75)
    assert (metrics["rewards/style/mean"], metrics["rewards/style/std"]) == (0.5, 0)
    assert metrics["rewards/format/mean"] == 1  # logged, of no weight

    assert server.tokens == {"Bearer secret"}
    assert [b["step"] for b in server.bodies] == [0, 1]
    item = server.bodies[0]["items"][0]
    assert set(item) == {"prompt_id", "category", "intent", "language", "source", "prompt", "completion", "cut"}
    assert item["prompt"][0]["role"] == "user"
    assert len({i["prompt_id"] for i in server.bodies[0]["items"]}) == 2

    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "out-1").state_dict()
    assert any(not torch.equal(half[name], after[name]) for name in after)


def test_resumes_between_two_generations(model: Path, rl_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(one_missing)
    events, code = call("rl", job(model, rl_data, tmp_path, server.url, gradient_accumulation=2), tmp_path)
    assert code == 0, events
    checkpoint = str(tmp_path / "checkpoints" / "checkpoint-1")
    events, code = call(
        "rl", job(model, rl_data, tmp_path, server.url, gradient_accumulation=2, resume_from=checkpoint), tmp_path
    )
    assert code == 0, events
    assert [e["step"] for e in events if e["event"] == "progress"] == [2]
    assert [b["step"] for b in server.bodies] == [0, 1, 1]


def test_a_resumed_job_draws_and_learns_what_an_uninterrupted_one_does(
    model: Path, rl_data: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(one_missing)
    settings = job(model, rl_data, tmp_path, server.url, steps=4)
    whole, code = call("rl", settings, tmp_path)
    assert code == 0, whole
    asked = {body["step"]: body for body in server.bodies}
    curve = {e["step"]: (e["loss"], e["metrics"]["reward"]) for e in whole if e["event"] == "progress"}

    server.bodies.clear()
    checkpoint = str(tmp_path / "checkpoints" / "checkpoint-2")
    resumed, code = call("rl", {**settings, "resume_from": checkpoint}, tmp_path)
    assert code == 0, resumed
    assert {body["step"]: body for body in server.bodies} == {step: asked[step] for step in (2, 3)}
    again = {e["step"]: (e["loss"], e["metrics"]["reward"]) for e in resumed if e["event"] == "progress"}
    assert again.keys() == {3, 4}
    for step, point in again.items():
        assert point == pytest.approx(curve[step], rel=1e-5, abs=1e-7)


def test_a_reward_server_that_ends_the_job_leaves_the_last_finished_step(
    model: Path, rl_data: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(one_missing)
    settings = job(model, rl_data, tmp_path, server.url, steps=3, save_steps=100, temperature=1.0)
    server.status = lambda number: 200 if number < 2 else 410
    events, code = call("rl", settings, tmp_path)
    assert code == 3, events
    assert [e["step"] for e in events if e["event"] == "progress"] == [1, 2]
    stopped = events[-1]
    assert (stopped["event"], stopped["step"]) == ("interrupted", 2)
    assert loop.is_complete(Path(stopped["checkpoint"]))
    assert events[-2] == {"event": "checkpoint", "step": 2, "path": stopped["checkpoint"]}
    assert not (tmp_path / "out").exists()

    # Ended again before a step is finished, it has what it began with.
    again, code = call("rl", {**settings, "resume_from": stopped["checkpoint"]}, tmp_path)
    assert code == 3, again
    assert again[-1] == stopped

    server.status = lambda number: 200
    resumed, code = call("rl", {**settings, "resume_from": stopped["checkpoint"]}, tmp_path)
    assert code == 0, resumed
    assert [e["step"] for e in resumed if e["event"] == "progress"] == [3]
    assert [b["step"] for b in server.bodies] == [0, 1, 2, 2, 2]
    # The same completions: what the judge has answered about them is known.
    assert server.bodies[2] == server.bodies[3] == server.bodies[4]


def test_a_request_to_stop_ends_the_wait_for_a_reward(model: Path, rl_data: Path, tmp_path: Path, serve: Serve) -> None:
    class Stopping(StopRequest):
        """Comes once the reward is asked for."""

        def __bool__(self) -> bool:
            return bool(server.bodies)

    server = serve(one_missing)
    server.status = lambda number: 503
    events, code = call("rl", job(model, rl_data, tmp_path, server.url), tmp_path, Stopping())
    assert code == 3, events
    assert events[-1] == {"event": "interrupted", "step": 0, "checkpoint": ""}


def test_a_step_without_rewards_is_no_failure_of_the_job(
    model: Path, rl_data: Path, tmp_path: Path, serve: Serve
) -> None:
    """How many may be missing is the server's to say: it ends the job where there are more."""
    server = serve(lambda n: [None] * n)
    events, code = call("rl", job(model, rl_data, tmp_path, server.url, steps=1), tmp_path)
    assert code == 0, events
    metrics = next(e for e in events if e["event"] == "progress")["metrics"]
    assert not [name for name in metrics if name.startswith("reward")], metrics

    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda n: [1.0] * (n - 1), "Internal"),
        (lambda n: ["good"] * n, "Internal"),
    ],
)
def test_a_judge_that_gives_no_rewards_ends_the_run(
    answer: Callable[[int], list[Any]], kind: str, model: Path, rl_data: Path, tmp_path: Path, serve: Serve
) -> None:
    events, code = call("rl", job(model, rl_data, tmp_path, serve(answer).url), tmp_path)
    assert code == 1
    assert events[-1]["kind"] == kind
    assert not (tmp_path / "out").exists()


def test_a_judge_that_is_not_there_is_unavailable(model: Path, rl_data: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve(one_missing)
    server.close()
    events, code = call("rl", job(model, rl_data, tmp_path, server.url), tmp_path)
    assert code == 1
    assert events[-1]["kind"] == "Unavailable"


def test_wrong_input_is_refused(
    model: Path, rl_data: Path, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, code = call("rl", job(model, rl_data, tmp_path, "http://x", gradient_accumulation=3), tmp_path)
    assert code == 2
    assert "gradient_accumulation 3" in events[-1]["message"]
    events, code = call("rl", job(model, rl_data, tmp_path, "http://x", trainer={"use_vllm": True}), tmp_path)
    assert code == 2
    assert "vLLM is not installed" in events[-1]["message"]
    monkeypatch.delenv("PRECEPT_REWARD_TOKEN")
    events, code = call("rl", job(model, rl_data, tmp_path, "http://x"), tmp_path)
    assert code == 2
    assert "PRECEPT_REWARD_TOKEN" in events[-1]["message"]


@pytest.mark.parametrize("special", [False, True])
def test_the_judge_gets_the_chain_of_thought_with_its_tags(
    special: bool, tokenizer: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(lambda n: [1.0] * n)
    tok = AutoTokenizer.from_pretrained(tokenizer)
    if special:
        tok.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    text = "<think>\nThe rule says so.\n</think>\n\nNo."
    ids = tok(text + "<|im_end|><|im_end|>", add_special_tokens=False)["input_ids"]
    ask(Judge(Reward(url=server.url, weights=server.weights), tok, StopRequest()), [ids, ids[:-2]])
    item, unfinished = server.bodies[0]["items"]
    assert (item["completion"], item["intent"], item["cut"]) == (text, "benign", False)
    assert (unfinished["completion"], unfinished["cut"]) == (text, True)


def ask(judge: Judge, completion_ids: list[list[int]]) -> dict[str, list[float | None]]:
    """Calls the reward functions as TRL does, at step 7."""
    n = len(completion_ids)
    step: dict[str, Any] = {
        "prompts": [[{"role": "user", "content": "?"}]] * n,
        "completions": [[{"role": "assistant", "content": "not read"}]] * n,
        "completion_ids": completion_ids,
        **{name: ["p"] * n for name in ("prompt_id", "category", "language", "source")},
        "intent": ["benign"] * n,
        "trainer_state": SimpleNamespace(global_step=7),
        "log_metric": lambda name, value: None,
        "log_extra": lambda name, values: None,
    }
    return {function.__name__: function(**step) for function in judge.functions()}


def test_each_process_asks_for_its_own(tokenizer: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    server = serve(one_missing)
    judge = Judge(
        Reward(url=server.url, weights=server.weights), AutoTokenizer.from_pretrained(tokenizer), StopRequest()
    )
    terms = ask(judge, [[65], [66]])
    assert len(server.bodies) == 1  # for all terms
    body = server.bodies[0]
    assert (body["step"], body["rank"], body["ranks"], len(body["items"])) == (7, 1, 2, 2)
    assert list(terms) == ["compliance", "style", "format"]
    assert all(scores[0] is None and scores[1] is not None for scores in terms.values())


@pytest.mark.parametrize(("timeout", "least"), [(120.0, 1800), (300.0, 1800), (2400.5, 2401)])
def test_processes_wait_for_each_other_longer_than_for_rewards(timeout: float, least: int) -> None:
    got = collective_timeout(Reward(url="http://x", timeout_s=timeout, weights={"compliance": 1}))
    assert got >= least
    assert got > timeout


def test_intents_take_turns() -> None:
    rows = [{"prompt_id": f"{intent}{i}", "intent": intent} for intent, n in (("h", 40), ("b", 20)) for i in range(n)]
    order = in_turn(rows, 1)
    assert sorted(r["prompt_id"] for r in order) == sorted(r["prompt_id"] for r in rows)
    for start in range(0, 60, 6):
        assert sorted(r["intent"] for r in order[start : start + 6]) == ["b", "b", "h", "h", "h", "h"]
    assert in_turn(rows, 1) == order
    assert in_turn(rows, 2) != order
