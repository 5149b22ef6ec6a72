"""What a step costs with a judge that is slow: `python -m pytest -s tests/bench_reward.py`.

A step draws with the weights that the step before it left, and those follow from its rewards. So nothing of the next
step can begin before the last reward of this one is there, and a step takes what it takes with an instant judge and the
judge's latency once: not once a completion, which are judged together, nor a share of it.
"""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import RewardServer, call
from test_rl import job

LATENCY_S = 0.5
STEPS, WARM = 12, 3


class Timed(RewardServer):
    """Notes when it is asked."""

    def __init__(self, latency: float) -> None:
        self.asked: list[float] = []

        def answer(count: int) -> list[float | None]:
            self.asked.append(time.monotonic())
            time.sleep(latency)
            return [float(i % 2) for i in range(count)]

        super().__init__(answer)

    def step(self) -> float:
        """The time of the quietest step, once the first ones are over: other programs share the cores."""
        return min(after - before for before, after in pairwise(self.asked[WARM:]))


def test_a_step_waits_for_the_judge_once(
    model: Path, rl_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECEPT_REWARD_TOKEN", "secret")

    def step(latency: float) -> float:
        folder = tmp_path / str(latency)
        folder.mkdir()
        server = Timed(latency)
        settings = job(model, rl_data, folder, server.url, steps=STEPS, save_steps=STEPS, max_completion_length=48)
        events, code = call("rl", settings, folder)
        server.close()
        assert code == 0, events
        assert len(server.asked) == STEPS
        return server.step()

    instant, slow = step(0), step(LATENCY_S)
    print(
        f"\na step takes {instant:.3f} s with an instant judge and {slow:.3f} s with one of {LATENCY_S} s: "
        f"{slow / instant:.2f} times, {slow - instant:.3f} s more"
    )
    assert slow - instant == pytest.approx(LATENCY_S, abs=0.15)
