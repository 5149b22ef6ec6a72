"""Stands in for the trainer in tests of gpucheck: the same events, and no training.

FAULT says what is wrong with it: "curve" and "draws" are off after a resume, "steps" leaves one out, "restart" forgets
the checkpoint, "dies" ends with an error, "large" takes more device memory than was planned.
"""

import json
import os
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

fault = os.environ.get("FAULT", "")
job = json.loads(Path(sys.argv[3]).read_bytes())
resumes = bool(job.get("resume_from"))
total = job["steps"] if job["kind"] == "rl" else 8
peak = SimpleNamespace(
    is_available=lambda: job["device"] == "cuda",
    is_initialized=lambda: True,
    max_memory_allocated=lambda: 4000 if fault == "large" else 900,
    max_memory_reserved=lambda: 1000,
)
sys.modules["torch"] = SimpleNamespace(cuda=peak)  # type: ignore[assignment]


def emit(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def ask(step: int) -> float:
    completion = f"drawn at {step}{' again' if fault == 'draws' and resumes else ''}"
    items = [{"prompt_id": f"p{step}", "completion": completion}] * 4
    request = urllib.request.Request(
        job["reward"]["url"],
        data=json.dumps({"step": step, "items": items}).encode(),
        headers={"Authorization": f"Bearer {os.environ['PRECEPT_REWARD_TOKEN']}"},
    )
    with urllib.request.urlopen(request) as answer:
        return float(json.load(answer)["rewards"][0])


if fault == "dies":
    emit("error", kind="Internal", message="the stand-in dies")
    sys.exit(1)
folder = Path(job["checkpoints"])
folder.mkdir(parents=True, exist_ok=True)
at = max((int(p.name) for p in folder.iterdir()), default=0) if resumes and fault != "restart" else 0
emit("start", step=at, total_steps=total)
for step in range(at + 1, total + 1):
    reward = ask(step - 1) if job["kind"] == "rl" else 0.0
    if fault == "steps" and resumes and step == total - 1:
        continue
    loss = 2.0 / step * (1.1 if fault == "curve" and resumes else 1)
    metrics = {"reward": reward, "grad_norm": 1.0, "num_tokens": 10.0 * step}
    emit("progress", step=step, total_steps=total, loss=loss, metrics=metrics, elapsed_s=step / 10)
    if step % job["save_steps"] == 0:
        (folder / str(step)).touch()
        emit("checkpoint", step=step, path=str(folder / str(step)))
        if not resumes and job["checkpoints"].endswith("-again/checkpoints") and step >= 2:
            threading.Event().wait()  # for the kill
emit("done", path=job["output"], steps=total, metrics={})
