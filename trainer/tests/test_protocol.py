import io
import json
import math
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from precept_trainer import job as jobs
from precept_trainer.protocol import Events, JobError

ROOT = str(Path(__file__).parents[1])


def test_metrics_without_a_value_are_left_out() -> None:
    out = io.StringIO()
    Events(out).emit("progress", loss=1.0, metrics={"a": math.nan, "b": None, "c": math.inf, "d": 0.0})
    assert json.loads(out.getvalue()) == {"event": "progress", "loss": 1.0, "metrics": {"d": 0.0}}


def test_only_events_reach_standard_output() -> None:
    script = """
import os
from precept_trainer.protocol import Events, claim_stdout
events = Events(claim_stdout())
print("a library prints")
os.write(1, b"and one writes to the descriptor\\n")
os.system("echo and so does its child")
events.emit("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert done.stdout == '{"event": "done"}\n'
    assert done.stderr.count("\n") == 3


def test_the_process_ends_with_the_one_that_started_it() -> None:
    child = """
import signal, sys, time
from precept_trainer.protocol import follow_parent
follow_parent(0.01)
print("following", flush=True)
signal.pause()
"""
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    watch = os.pidfd_open(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert select.select([watch], [], [], 20)[0], "the child is still there"


@pytest.mark.parametrize(
    ("planned", "world", "fits"), [(None, None, True), (2, "2", True), (2, None, False), (None, "2", False)]
)
def test_a_job_is_refused_by_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: int | None, world: str | None, fits: bool
) -> None:
    path = tmp_path / "job.json"
    job = {"base": "b", "data": ["d"], "output": "o", "checkpoints": "c"}
    path.write_text(json.dumps(job if planned is None else {**job, "processes": planned}))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    if fits:
        assert getattr(jobs.read("sft", path), "processes") == (planned or 1)  # noqa: B009
        return
    with pytest.raises(JobError, match="processes, and WORLD_SIZE is") as refused:
        jobs.read("sft", path)
    assert refused.value.kind == "InvalidInput"
