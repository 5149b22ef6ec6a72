from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import call
from test_sft import job
from transformers import AutoModelForCausalLM

from precept_trainer.milestones import steps


def weights(folder: Path) -> dict[str, Any]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


@pytest.mark.parametrize(
    "change",
    [{}, {"trainable_layers": 0, "lora": {"r": 2, "alpha": 4, "layers": 1}}],
    ids=["full weights", "adapters"],
)
def test_milestones_are_models_on_the_way(model: Path, sft_data: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    settings = job(model, sft_data, tmp_path, epochs=1, save_steps=2, **change)
    events, code = call("sft", {**settings, "milestones": 2}, tmp_path)
    assert code == 0, events

    milestones = [e for e in events if e["event"] == "milestone"]
    assert milestones == [{"event": "milestone", "step": 2, "path": str(tmp_path / "out-2")}]
    # A milestone goes before the checkpoint of its step: who resumes from that one doesn't write it again.
    order = [(e["event"], e["step"]) for e in events if e["event"] in ("milestone", "checkpoint")]
    assert order == [("milestone", 2), ("checkpoint", 2), ("checkpoint", 4)]

    base, half, whole = weights(model), weights(tmp_path / "out-2"), weights(tmp_path / "out")
    assert base.keys() == half.keys() == whole.keys()
    assert any(not torch.equal(base[name], half[name]) for name in base)
    assert any(not torch.equal(half[name], whole[name]) for name in base)

    # To write one changes nothing of the training.
    (tmp_path / "other").mkdir()
    again, code = call("sft", {**settings, "output": str(tmp_path / "plain")}, tmp_path / "other")
    assert code == 0, again
    assert not [e for e in again if e["event"] == "milestone"]
    plain = weights(tmp_path / "plain")
    assert all(torch.equal(whole[name], plain[name]) for name in whole)


@pytest.mark.parametrize(
    ("milestones", "total", "want"),
    [(0, 8, set()), (1, 8, set()), (4, 100, {25, 50, 75}), (3, 12, {4, 8}), (3, 2, {1}), (4, 1, set())],
)
def test_steps_part_the_whole(milestones: int, total: int, want: set[int]) -> None:
    assert steps(milestones, total) == want
