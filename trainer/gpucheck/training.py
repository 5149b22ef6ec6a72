"""Jobs of the trainer as processes: whole, and killed and resumed; and what is read from their events."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpucheck import reward
from gpucheck.report import Failed, NotChecked

TRAINER = Path(__file__).resolve().parents[1]
ROOT = TRAINER.parent
_MEASURED = str(Path(__file__).with_name("measured.py"))

Event = dict[str, Any]
Curve = dict[int, dict[str, float]]


@dataclass
class Outcome:
    """What a process said until it ended."""

    events: list[Event] = field(default_factory=list)
    code: int = 0
    peak: dict[str, int] = field(default_factory=dict)
    """Bytes of device memory that tensors had, and that torch had taken; empty on the CPU."""

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    def curve(self) -> Curve:
        return {e["step"]: {"loss": e["loss"], **e["metrics"]} for e in self.of("progress")}

    def seconds(self) -> float:
        """From the first step's end to the last one's: the first holds what is done once."""
        steps = self.of("progress")
        return float(steps[-1]["elapsed_s"] - steps[0]["elapsed_s"])

    def tokens_per_second(self) -> float:
        tokens = [e["metrics"]["num_tokens"] for e in self.of("progress")]
        return float((tokens[-1] - tokens[0]) / self.seconds())


@dataclass(frozen=True)
class Place:
    """Where processes run, and for how long at most."""

    folder: Path
    limit_s: float
    env: dict[str, str]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.env,
            # What is installed beside the environment stays within reach.
            "PYTHONPATH": os.pathsep.join([str(TRAINER), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hf"),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PRECEPT_REWARD_TOKEN": reward.TOKEN,
        }

    def json(self, *command: str, stdin: str | None = None) -> Any:
        """What a program prints in its last line."""
        try:
            ended = subprocess.run(  # noqa: S603
                command,
                input=stdin,
                capture_output=True,
                text=True,
                env=self.environment(),
                cwd=self.folder,
                timeout=self.limit_s,
            )
        except subprocess.TimeoutExpired as err:
            raise Failed(f"{Path(command[0]).name} gives no answer within {self.limit_s:.0f} s") from err
        if ended.returncode != 0:
            said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:] or ["it says nothing"]
            raise Failed(f"{Path(command[0]).name} ends with {ended.returncode}: {said[0][:500]}")
        return json.loads(ended.stdout.strip().splitlines()[-1])

    def train(self, name: str, job: dict[str, Any], kill_at: int = 0) -> Outcome:
        """Runs a job, until it ends, or until the first checkpoint from a step on, where it is killed."""
        file, peak = self.folder / f"{name}.json", self.folder / f"{name}-peak.json"
        file.write_text(json.dumps(job, indent=2), encoding="utf-8")
        program = [sys.executable, *(["-m"] if kill_at else [_MEASURED, str(peak)])]
        out = Outcome()
        with (self.folder / f"{name}.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603
                [*program, "precept_trainer", job["kind"], "--job", str(file)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment(),
                cwd=self.folder,  # else -m finds what lies where this was started
                text=True,
            )
            hangs = threading.Timer(self.limit_s, process.kill)
            hangs.start()
            assert process.stdout is not None  # noqa: S101
            try:
                for line in process.stdout:
                    if not line.endswith("\n"):
                        break  # it was killed while it wrote
                    event = json.loads(line)
                    out.events.append(event)
                    if kill_at and event["event"] == "checkpoint" and event["step"] >= kill_at:
                        process.kill()  # what it has said until then is still read
                out.code = process.wait()
            finally:
                hung = not hangs.is_alive()
                hangs.cancel()
                process.kill()
                process.wait()
        if hung:
            raise Failed(f"{name} was ended after {self.limit_s:.0f} s; {self._last(name)}")
        if peak.is_file():
            out.peak = json.loads(peak.read_bytes())
        return out

    def whole(self, name: str, job: dict[str, Any]) -> Outcome:
        """A run to the end."""
        out = self.train(name, job)
        if out.code != 0 or not out.of("done"):
            said = [e["message"] for e in out.of("error")] or [self._last(name)]
            raise Failed(f"{name} ends with {out.code}: {said[0]}")
        return out

    def killed(self, name: str, job: dict[str, Any], kill_at: int) -> tuple[Outcome, Outcome]:
        """A run that SIGKILL ends behind a checkpoint, and the one that goes on from there."""
        first = self.train(f"{name}-killed", job, kill_at)
        if not first.of("checkpoint"):
            said = [e["message"] for e in first.of("error")] or [self._last(f"{name}-killed")]
            raise Failed(f"{name} ends with {first.code} before its first checkpoint: {said[0]}")
        if first.code != -signal.SIGKILL:
            raise NotChecked("the job ended before it could be killed")
        return first, self.whole(f"{name}-resumed", {**job, "resume_from": job["checkpoints"]})

    def _last(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its last word: {lines[-1][:500]}" if lines else "it said nothing"


def join(first: Outcome, second: Outcome, total: int) -> Curve:
    """The curve of a killed run, up to the checkpoint that it went on from and from there on; it has to be whole."""
    at, said = second.of("start")[0]["step"], [e["step"] for e in first.of("checkpoint")]
    before, after = first.curve(), second.curve()
    if at < max(said):
        raise Failed(f"it goes on from step {at}, and there are checkpoints of {said}")
    if not before.keys() >= set(range(1, at + 1)):
        raise Failed(f"it goes on from step {at}, and the steps {sorted(before)} were said before")
    if sorted(after) != list(range(at + 1, total + 1)) or second.of("done")[0]["steps"] != total:
        raise Failed(f"from step {at} it takes the steps {sorted(after)}, and the job has {total}")
    return {step: point for step, point in before.items() if step <= at} | after


def difference(one: Curve, other: Curve, metric: str, steps: range) -> float:
    """The largest relative difference; values near zero are compared as if they were 0.001."""
    pairs = [(one[step][metric], other[step][metric]) for step in steps]
    return max((abs(x - y) / max(1e-3, abs(x)) for x, y in pairs), default=0.0)
