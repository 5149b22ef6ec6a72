import errno
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import COT, TEMPLATE, Process, call, prompt, write
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from precept_trainer import loop, sft
from precept_trainer.__main__ import run
from precept_trainer.protocol import Events, JobError, StopRequest


def job(model: Path, rows: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base": str(model),
        "data": [str(rows)],
        "output": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 3,
        "device": "cpu",
        "trainable_layers": 1,
        **changes,
    }


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in events if e["event"] == "progress"}


def test_trains_the_upper_layers_and_writes_a_model(model: Path, sft_data: Path, tmp_path: Path) -> None:
    events, code = call("sft", job(model, sft_data, tmp_path), tmp_path)

    assert code == 0, events
    assert events[0]["event"] == "start"
    assert events[0]["total_steps"] == 8
    assert events[-1] == {**events[-1], "event": "done", "steps": 8, "path": str(tmp_path / "out")}
    loss = losses(events)
    assert sorted(loss) == list(range(1, 9))
    assert loss[8] < loss[1]
    assert all(Path(e["path"], loop.MARKER).is_file() for e in events if e["event"] == "checkpoint")

    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in changed), changed
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE


def test_lora_is_merged_into_the_model(model: Path, sft_data: Path, tmp_path: Path) -> None:
    settings = job(model, sft_data, tmp_path, trainable_layers=0, epochs=1, lora={"r": 2, "alpha": 4, "layers": 1})
    events, code = call("sft", settings, tmp_path)

    assert code == 0, events
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("model.layers.1.") for name in changed), changed


def test_resumes_to_the_same_end(
    model: Path, sft_data: Path, tmp_path: Path, start: Callable[[str, dict[str, Any]], Process]
) -> None:
    whole, code = call("sft", job(model, sft_data, tmp_path, output=str(tmp_path / "whole")), tmp_path)
    assert code == 0, whole

    folder = tmp_path / "again"
    folder.mkdir()
    process = start("sft", job(model, sft_data, folder, save_steps=100, epochs=2))
    process.wait_for("start")
    process.terminate()
    assert process.end() == 3, process.events
    stopped = process.events[-1]
    assert stopped["event"] == "interrupted"
    assert 0 < stopped["step"] < 8
    assert loop.is_complete(Path(stopped["checkpoint"]))
    assert not (folder / "out").exists()

    resumed, code = call("sft", job(model, sft_data, folder, resume_from=stopped["checkpoint"]), folder)
    assert code == 0, resumed
    assert resumed[0]["step"] == stopped["step"]
    assert resumed[-1]["steps"] == 8
    assert sorted(losses(resumed)) == list(range(stopped["step"] + 1, 9))
    # The same rows in the same order, from the same state of the optimizer.
    assert losses(resumed) == pytest.approx({n: x for n, x in losses(whole).items() if n > stopped["step"]}, rel=1e-5)


def test_resumes_to_the_same_end_when_killed(
    model: Path, sft_data: Path, tmp_path: Path, start: Callable[[str, dict[str, Any]], Process]
) -> None:
    whole, code = call("sft", job(model, sft_data, tmp_path, output=str(tmp_path / "whole")), tmp_path)
    assert code == 0, whole

    folder = tmp_path / "again"
    folder.mkdir()
    settings = job(model, sft_data, folder, save_steps=1)
    seen = losses(whole)
    for _ in range(3):
        process = start("sft", {**settings, "resume_from": settings["checkpoints"]})
        process.wait_for("checkpoint")
        process.kill()
        assert {n: seen[n] for n in losses(process.events)} == pytest.approx(losses(process.events), rel=1e-5)
    resumed, code = call("sft", {**settings, "resume_from": settings["checkpoints"]}, folder)
    assert code == 0, resumed
    assert resumed[0]["step"] >= 3
    assert losses(resumed) == pytest.approx({n: x for n, x in seen.items() if n > resumed[0]["step"]}, rel=1e-5)
    assert resumed[-1]["steps"] == 8
    one, other = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (tmp_path / "whole", folder / "out"))
    assert all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7) for name in one)


def test_a_request_to_stop_before_the_first_step_is_an_interruption(
    model: Path, sft_data: Path, tmp_path: Path
) -> None:
    class Stopped(StopRequest):
        def __bool__(self) -> bool:
            return True

    events, code = call("sft", job(model, sft_data, tmp_path), tmp_path, Stopped())
    assert code == 3
    assert events == [{"event": "interrupted", "step": 0, "checkpoint": ""}]


def test_only_complete_checkpoints_are_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((1, True), (2, True), (10, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"1234")
        if complete:
            loop.mark_complete(folder, step)

    assert loop.checkpoint_to_resume("") is None
    assert loop.checkpoint_to_resume(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    with pytest.raises(JobError, match="incomplete"):
        loop.checkpoint_to_resume(str(tmp_path / "checkpoint-10"))
    (tmp_path / "checkpoint-2" / "weights").write_bytes(b"12")
    assert loop.checkpoint_to_resume(str(tmp_path)) == str(tmp_path / "checkpoint-1")
    with pytest.raises(JobError, match="incomplete"):
        loop.checkpoint_to_resume(str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 150}, "7 of 16 rows are longer than max_length 150"),
        ({"base": "/nowhere"}, "config.json|tokenizer_config.json"),
        ({"data": ["/nowhere.parquet"]}, "nowhere.parquet"),
        ({"trainable_layers": 3}, "the model has 2 layers"),
        ({"learning_rat": 1}, "learning_rat"),
        ({"epochs": "many"}, "epochs"),
        ({"resume_from": "/nowhere/checkpoint-3"}, "incomplete"),
        ({"trainer": {"output_dir": "/tmp"}}, "sft.trainer.output_dir is Precept's own: any death resumes"),
        ({"trainer": {"adam_beta_1": 0.9}}, "SFTConfig has no such field"),
        ({"trainer": {"lr_scheduler_type": "steep"}}, "SFTConfig refuses it.*steep"),
        ({"patience": 2}, "set held_out"),
        ({"held_out": 0.99}, "leaves none of 16 rows"),
    ],
)
def test_wrong_input_is_refused(
    change: dict[str, Any], message: str, model: Path, sft_data: Path, tmp_path: Path
) -> None:
    events, code = call("sft", job(model, sft_data, tmp_path, **change), tmp_path)
    assert code == 2, events
    assert [(e["event"], e["kind"]) for e in events if e["event"] == "error"] == [("error", "InvalidInput")]
    assert re.search(message, events[-1]["message"]), events[-1]
    assert not (tmp_path / "out").exists()


def test_no_rows_are_refused(model: Path, tmp_path: Path) -> None:
    schema = pa.schema([("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])
    schema = schema.append(schema.field("prompt").with_name("completion"))
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    events, code = call("sft", job(model, tmp_path / "empty.parquet", tmp_path), tmp_path)
    assert code == 2
    assert "no rows" in events[-1]["message"]


def test_the_loss_is_over_the_completion_up_to_its_end(tokenizer: Path) -> None:
    tok = AutoTokenizer.from_pretrained(tokenizer)
    answer = f"<think>\n{COT}\n</think>\n\nSlowly."
    row = {"prompt": prompt(1), "completion": [{"role": "assistant", "content": answer}]}
    (tokenized,) = sft.tokenize([row], tok, 512)

    learned = [t for t in tokenized["labels"] if t != -100]
    assert tok.decode(learned) == answer + "<|im_end|>"
    assert tokenized["labels"][-1] == tok.eos_token_id
    context = tokenized["input_ids"][: -len(learned)]
    assert context == tok.apply_chat_template(prompt(1), add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TEMPLATE.replace("m['content']", "m['content'].split('</think>')[-1]"), "drops the content"),
        (TEMPLATE.replace("<|im_end|>", ""), "no end-of-sequence token"),
        ("{{ messages | length }}" + TEMPLATE, "renders the prompt differently"),
    ],
)
def test_a_template_that_would_teach_something_else_is_refused(template: str, message: str, tokenizer: Path) -> None:
    tok = AutoTokenizer.from_pretrained(tokenizer)
    tok.chat_template = template
    row = {"prompt": prompt(1), "completion": [{"role": "assistant", "content": f"<think>{COT}</think>Slowly."}]}
    with pytest.raises(JobError, match=message) as caught:
        sft.tokenize([row], tok, 512)
    assert caught.value.kind == "InvalidInput"


def test_reasoning_that_the_template_drops_is_refused(tokenizer: Path, model: Path, tmp_path: Path) -> None:
    completion = [{"role": "assistant", "content": "Slowly.", "reasoning_content": COT}]
    data = write(tmp_path / "rows.parquet", [{"prompt": prompt(1), "completion": completion}])
    events, code = call("sft", job(model, data, tmp_path), tmp_path)
    assert code == 2
    assert "drops the reasoning_content" in events[-1]["message"]


def test_a_broken_job_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{")
    out = io.StringIO()
    assert run("sft", tmp_path / "job.json", Events(out), StopRequest()) == 2
    assert json.loads(out.getvalue())["kind"] == "InvalidInput"


def test_further_settings_reach_the_trainer(model: Path, sft_data: Path, tmp_path: Path) -> None:
    settings = job(
        model, sft_data, tmp_path, epochs=1, trainer={"warmup_steps": 3, "lr_scheduler_type": "constant_with_warmup"}
    )
    events, code = call("sft", settings, tmp_path)
    assert code == 0, events
    rates = [e["metrics"]["learning_rate"] for e in events if e["event"] == "progress"]
    assert rates == pytest.approx([0, 1e-2 / 3, 2e-2 / 3, 1e-2])


def test_early_stopping_goes_on_counting_after_a_resume(model: Path, sft_data: Path, tmp_path: Path) -> None:
    # Nothing is learned at this rate, so the first evaluation is the best one.
    settings = job(model, sft_data, tmp_path, learning_rate=1e-30, epochs=4, save_steps=2, held_out=0.25, patience=2)
    events, code = call("sft", settings, tmp_path)
    assert code == 0, events
    assert (events[0]["rows"], events[0]["held_out"], events[0]["total_steps"]) == (12, 4, 12)
    assert [e["step"] for e in events if e["event"] == "evaluation"] == [2, 4, 6]
    assert events[-1] == {**events[-1], "event": "done", "steps": 6}

    for step, steps in ((4, [5, 6]), (6, [])):
        checkpoint = str(tmp_path / "checkpoints" / f"checkpoint-{step}")
        again, code = call("sft", {**settings, "resume_from": checkpoint}, tmp_path)
        assert code == 0, again
        assert (again[0]["event"], again[0]["step"], again[0]["rows"]) == ("start", step, 12)
        assert [e["step"] for e in again if e["event"] == "progress"] == steps
        assert again[-1]["steps"] == 6


def test_packed_rows_attend_to_themselves_alone(model: Path, sft_data: Path, tmp_path: Path) -> None:
    # The loss of the first step, before anything is learned, is that of the same rows apart.
    def first_loss(**changes: Any) -> float:
        settings = job(model, sft_data, tmp_path, learning_rate=1e-30, epochs=1, batch_size=16, **changes)
        events, code = call("sft", settings, tmp_path)
        assert code == 0, events
        return losses(events)[1]

    assert first_loss(packing=True, max_length=400) == pytest.approx(first_loss(), rel=1e-5)


def test_rows_of_other_data_that_are_too_long_are_left_out(model: Path, sft_data: Path, tmp_path: Path) -> None:
    short = {"prompt": prompt(1), "completion": [{"role": "assistant", "content": "Yes."}]}
    long = {"prompt": prompt(2), "completion": [{"role": "assistant", "content": "Yes. " * 200}]}
    mix = write(tmp_path / "mix.parquet", [short, long])
    events, code = call("sft", job(model, sft_data, tmp_path, epochs=1, mix=[str(mix)]), tmp_path)
    assert code == 0, events
    assert (events[0]["rows"], events[0]["too_long"]) == (17, 1)


def test_a_tokenizer_of_another_model_is_refused(model: Path, sft_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tok = AutoTokenizer.from_pretrained(other)
    tok.add_tokens([f"<extra_{i}>" for i in range(40)])
    tok.save_pretrained(other)
    events, code = call("sft", job(other, sft_data, tmp_path), tmp_path)
    assert code == 2
    assert "is another model's" in events[-1]["message"]


def test_a_full_disk_leaves_whole_checkpoints(
    model: Path, sft_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = SFTTrainer.save_model, []

    def fill(self: SFTTrainer, folder: str, *args: Any, **kwargs: Any) -> None:
        save(self, folder, *args, **kwargs)
        saved.append(folder)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", folder)

    monkeypatch.setattr(SFTTrainer, "save_model", fill)
    settings = job(model, sft_data, tmp_path)
    events, code = call("sft", settings, tmp_path)
    assert code == 1
    assert events[-1] == {**events[-1], "event": "error", "kind": "Unavailable"}
    assert "no space is left" in events[-1]["message"]
    # The half-written one is passed over.
    assert loop.checkpoint_to_resume(settings["checkpoints"]) == str(tmp_path / "checkpoints" / "checkpoint-3")
    events, code = call("sft", {**settings, "resume_from": settings["checkpoints"]}, tmp_path)
    assert code == 0, events
    assert events[0]["step"] == 3
