"""The sections: devices, SFT and RL as they are, killed, and beside TRL alone, and their memory."""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from gpucheck import inputs, placement, reward
from gpucheck.report import Failed, NotChecked, Report, Section
from gpucheck.training import ROOT, Outcome, Place, difference, join

_SMOL = ROOT / ".precept/models/SmolLM2-135M-Instruct"
_PACKAGES = ["torch", "transformers", "trl", "accelerate", "datasets", "peft", "pyarrow", "pydantic"]
_PROMPTS, _GENERATIONS, _RL_STEPS = 2, 4, 4

_SFT, _BESIDE, _SFT_AGAIN, _SFT_MEMORY = "SFT", "SFT beside TRL alone", "SFT, killed and resumed", "Memory of SFT"
_RL, _RL_AGAIN, _RL_MEMORY = "RL", "RL, killed and resumed", "Memory of RL"

# How far a resumed curve may be off. A CPU adds in the same order always, a GPU doesn't, and bfloat16 has three digits.
_SAME = {"cpu": 1e-4, "cuda": 2e-2}
# How much longer a step may take than with TRL alone.
_SLOWER = 1.25

Device = dict[str, Any]
Job = dict[str, Any]
Asked = dict[int, list[dict[str, Any]]]


class Check:
    """All sections in turn, with what later ones need of earlier ones."""

    def __init__(self, args: argparse.Namespace, place: Place) -> None:
        self.args, self.place = args, place
        self.report = Report(args.out / "gpu-check.md")
        self.programs = placement.Programs(args.bin.resolve())
        self.size = inputs.TINY if args.size == "tiny" else inputs.SMALL
        self.device: Device | None = None
        self.dtype = "float32"
        self.missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]

    def run(self) -> int:
        if self.args.device == "cuda":
            seen, why = self._torch_view()
            if not seen and not _nvidia():
                print(f"No NVIDIA GPU on this machine ({why}): nothing is checked.")
                return 0
            self._devices(seen, why)
        self._head()
        if self.args.device == "cpu" or self.device is not None:
            self._training()
        self.report.write()
        if self.report.failed():
            for log in self.place.folder.glob("*.log"):
                shutil.copy(log, self.args.out)
        print(f"The result is in {self.report.page}")
        return 1 if self.report.failed() else 0

    def _torch_view(self) -> tuple[list[Device], str]:
        """The devices that torch sees, or why there are none."""
        if "torch" in self.missing:
            return [], "torch isn't installed"
        try:
            view = self.place.json(sys.executable, "-m", "gpucheck.device", "view")
        except Failed as err:
            return [], str(err)
        built = "" if view["cuda"] else ", it is built without CUDA"
        return view["devices"], f"torch {view['torch']} finds no device{built}"

    def _devices(self, seen: list[Device], why: str) -> None:
        with self.report.section("Devices, by torch") as section:
            if not seen:
                raise Failed(f"{why}, and the machine has one")
            for one in seen:
                section.say(_describe(one))
            self.device = max(seen, key=lambda one: int(one["free"]))
            self.dtype = "bfloat16" if self.device["major"] >= 8 else "float32"
            index = self.device["index"]
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            name = visible.split(",")[index].strip() if visible else str(index)
            section.say(f"what follows runs on device {index}; several processes are not tried")
        with self.report.section("Devices, by gpuprobe") as section:
            found = placement.devices(self.place, self.programs)
            section.say(found["said"])
            if found["sick"]:
                raise Failed("; ".join(found["sick"]))
            own = found["devices"] or []
            ours, theirs = sorted(map(_identity, own)), sorted(map(_identity, seen))
            if ours != theirs:
                raise Failed(f"it sees {ours or 'none'}, and torch {theirs}")
            section.say("each was written, read and compared; torch sees the same")
        if self.device is not None:
            self.place = dataclasses.replace(self.place, env={"CUDA_VISIBLE_DEVICES": name})

    def _head(self) -> None:
        pinned = dict(
            line.split("==") for line in (ROOT / "trainer/requirements.in").read_text().splitlines() if "==" in line
        )
        pinned = {name.partition("[")[0]: version for name, version in pinned.items()}
        installed = []
        for name in _PACKAGES:
            version = "missing" if name in self.missing else importlib.metadata.version(name)
            other = name in pinned and version.partition("+")[0] != pinned[name]
            installed.append(f"{name} {version}" + (f" (pinned: {pinned[name]})" if other else ""))
        now = datetime.datetime.now(datetime.UTC)
        none = "device: the CPU" if self.args.device == "cpu" else "device: none"
        self.report.head += [
            f"{now:%Y-%m-%d %H:%M} UTC, {platform.platform()}, Python {platform.python_version()}",
            _describe(self.device) if self.device else none,
            ", ".join(installed),
            f"computed in {self.dtype}",
        ]

    def _training(self) -> None:
        if "torch" in self.missing or "transformers" in self.missing:
            with self.report.section("Training"):
                raise NotChecked(f"{', '.join(self.missing)} isn't installed")
            return
        try:
            model = self._model()
        except Exception as err:
            with self.report.section("Model"):
                raise Failed(f"it can't be made: {type(err).__name__}: {err}") from err
            return
        if self.missing:
            for title in (_SFT, _BESIDE, _SFT_AGAIN, _RL, _RL_AGAIN, _SFT_MEMORY, _RL_MEMORY):
                with self.report.section(title):
                    raise NotChecked(f"{', '.join(self.missing)} isn't installed")
            self._plain(model)
            return
        rows = self.place.folder / "rows.parquet"
        prompt, row = inputs.longest(inputs.write_rows(rows, self.size), model)
        if {"sft", "beside"} & set(self.args.only):
            self._sft(model, rows, row)
        if "rl" in self.args.only:
            self._rl(model, rows, prompt + self.size.completion)

    def _model(self) -> Path:
        folder = self.args.model or (_SMOL if self.args.size == "small" else None)
        if folder is not None and (folder / "config.json").is_file():
            self.report.head.append(f"model: {folder.name}")
            return Path(folder).resolve()
        if self.args.model is not None:
            raise Failed(f"there is no config.json in {self.args.model}")
        self.report.head.append(f"model: random weights, {self.size.layers} layers of width {self.size.hidden}")
        return inputs.make_model(self.place.folder / "base", self.size)

    def _plain(self, model: Path) -> None:
        with self.report.section("transformers alone") as section:
            answer = self.place.json(
                sys.executable, "-m", "gpucheck.device", "plain", self.args.device, self.dtype, str(model)
            )
            section.say(f"{self.dtype}: loss {answer['loss']:.3f}, {answer['tokens']} tokens: {answer['text']!r}")
            if self.device:
                section.say(f"peak {_size(answer['peak'])}")
            if answer["tokens"] != 16 or not 0 < answer["loss"] < 100:
                raise Failed("a loss between 0 and 100 and 16 tokens were to come")

    def _sft(self, model: Path, rows: Path, length: int) -> None:
        job = self._job(model, rows, "sft") | {
            "epochs": self.size.epochs,
            "max_length": length,
            "learning_rate": self.size.rate,
            "save_steps": 1_000_000,
        }
        placed, why = self._placed(model, self.size.batch, length, generates=False)
        job |= {
            "batch_size": placed.get("batch_size", self.size.batch),
            "gradient_accumulation": placed.get("accumulation", 1),
            "gradient_checkpointing": placed.get("checkpointing", False),
        }
        whole: Outcome | None = None
        with self.report.section(_SFT) as section:
            whole = self.place.whole("sft", job)
            section.say(_course(whole, "loss"))
            section.say(f"{whole.tokens_per_second():.0f} tokens/s from the first step's end to the last one's")
            _falls(whole)
        if "beside" in self.args.only:
            with self.report.section(_BESIDE) as section:
                self._beside(section, _needs(whole), job, model, rows)
        with self.report.section(_SFT_AGAIN) as section:
            total = len(_needs(whole).curve())
            every = max(1, total // 4)
            changed = self._folders("sft-again") | {"save_steps": every}
            self._resumed(section, _needs(whole), self.place.killed("sft", job | changed, every), ["loss"])
        self._memory(_SFT_MEMORY, whole, placed, why)

    def _beside(self, section: Section, whole: Outcome, job: Job, model: Path, rows: Path) -> None:
        flags = {
            "model": model,
            "data": rows,
            "output": self.place.folder / "bare",
            "layers": job["trainable_layers"],
            "batch": job["batch_size"],
            "accumulation": job["gradient_accumulation"],
            "epochs": job["epochs"],
            "learning-rate": job["learning_rate"],
            "save-steps": job["save_steps"],
            "device": self.args.device,
            "dtype": self.dtype,
        }
        if job["gradient_checkpointing"]:
            raise NotChecked("the device is so small that activations are computed twice, which bench/trl doesn't do")
        # What Precept does anywhere, TRL does where Triton runs.
        more = ["--labelled-only"] if self.args.device == "cpu" else []
        command = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        bare = self.place.json(sys.executable, str(ROOT / "bench/trl/bare.py"), *command, *more)
        if bare["steps"] != len(whole.curve()):
            raise Failed(f"it takes {bare['steps']} steps, and Precept {len(whole.curve())}")
        ratio = whole.seconds() / bare["seconds"]
        section.say(f"{bare['steps']} steps: Precept {whole.seconds():.2f} s, bare {bare['seconds']:.2f} s")
        if self.args.device == "cpu":
            raise NotChecked(f"ratio {ratio:.2f}: on a CPU that others may use it is told and not judged")
        if ratio > _SLOWER:
            raise Failed(f"ratio {ratio:.2f}, more than {_SLOWER}")
        section.reason = f"ratio {ratio:.2f}"

    def _rl(self, model: Path, rows: Path, length: int) -> None:
        server = reward.Server()
        with contextlib.closing(server):
            placed, why = self._placed(model, _PROMPTS * _GENERATIONS, length, generates=True)
            job = self._job(model, rows, "rl") | {
                "reward": {"url": server.url, "timeout_s": 30, "weights": reward.WEIGHTS},
                "steps": _RL_STEPS,
                "num_generations": _GENERATIONS,
                "prompts_per_step": _PROMPTS,
                "max_completion_length": self.size.completion,
                "mask_truncated_completions": False,
                "learning_rate": self.size.rl_rate,
                "save_steps": 1,
                "gradient_accumulation": placed.get("accumulation", 1),
                "gradient_checkpointing": placed.get("checkpointing", False),
            }
            whole: Outcome | None = None
            with self.report.section(_RL) as section:
                whole = self.place.whole("rl", job)
                section.say(_course(whole, "reward"))
                section.say(_course(whole, "grad_norm"))
                if not any(point["grad_norm"] > 0 for point in whole.curve().values()):
                    raise Failed("no step has a gradient")
            asked = server.take()
            with self.report.section(_RL_AGAIN) as section:
                expected = _needs(whole)
                runs = self.place.killed("rl", job | self._folders("rl-again"), _RL_STEPS // 2)
                again = server.take()
                same = _same_draws(section, asked, again, runs[1].of("start")[0]["step"], self.args.device)
                self._resumed(section, expected, runs, ["loss", "reward", "grad_norm"], judged=same)
            self._memory(_RL_MEMORY, whole, placed, why)

    def _resumed(
        self,
        section: Section,
        whole: Outcome,
        runs: tuple[Outcome, Outcome],
        metrics: list[str],
        judged: bool = True,
    ) -> None:
        expected = whole.curve()
        total = len(expected)
        curve = join(*runs, total)
        at = runs[1].of("start")[0]["step"]
        section.say(f"killed behind step {at}, all {total} steps are taken")
        worst = 0.0
        for metric in metrics:
            before = difference(expected, curve, metric, range(1, at + 1))
            after = difference(expected, curve, metric, range(at + 1, total + 1))
            section.say(
                f"{metric}: largest relative difference {after:.2g} behind the checkpoint, {before:.2g} before it"
            )
            worst = max(worst, before, after)
        section.reason = f"the curves differ by {worst:.2g} at most"
        if judged and worst > _SAME[self.args.device]:
            raise Failed(f"the curves differ by {worst:.2g}, more than {_SAME[self.args.device]}")

    def _placed(self, model: Path, batch: int, length: int, generates: bool) -> tuple[dict[str, Any], str]:
        """How a worker would place the job; nothing where that can't be found out, and why."""
        if self.device is None:
            return {}, "the CPU's memory is not planned"
        wanted = {
            "devices": [self.device],
            "model": str(model),
            "batch": batch,
            "length": length,
            "layers": inputs.layers_of(model),
            "generates": generates,
        }
        try:
            return placement.place_job(self.place, self.programs, wanted), ""
        except NotChecked as err:
            return {}, str(err)

    def _memory(self, title: str, whole: Outcome | None, placed: dict[str, Any], why: str) -> None:
        with self.report.section(title) as section:
            peak = _needs(whole).peak
            if peak:
                section.say(f"peak {_size(peak['allocated'])} of tensors, {_size(peak['reserved'])} taken by torch")
            if not placed:
                raise NotChecked(why)
            section.say(placed["said"])
            if placed["dtype"] != self.dtype:
                raise Failed(f"it was planned in {placed['dtype']}, and computed in {self.dtype}")
            if not peak:
                raise Failed("the job took no device memory")
            share = peak["allocated"] / placed["bytes"]
            section.say(f"a device with {_size(placed['needs'])} free would have been given this job")
            if peak["allocated"] > placed["needs"]:
                raise Failed(f"the peak is {share:.0%} of the estimate: a job is given to devices that are too small")
            section.reason = f"the peak is {share:.0%} of the estimate"

    def _job(self, model: Path, rows: Path, kind: str) -> Job:
        return {
            "kind": kind,
            "base": str(model),
            "data": [str(rows)],
            "seed": 1,
            "trainable_layers": inputs.layers_of(model),
            "device": self.args.device,
            "dtype": self.dtype,
        } | self._folders(kind)

    def _folders(self, name: str) -> Job:
        # Each run writes some hundred megabytes, and nobody reads the one before any more.
        for old in self.place.folder.glob("*/out"):
            shutil.rmtree(old.parent)
        folder = self.place.folder / name
        return {"output": str(folder / "out"), "checkpoints": str(folder / "checkpoints")}


def _needs(whole: Outcome | None) -> Outcome:
    if whole is None:
        raise NotChecked("there is no whole run to compare with")
    return whole


def _falls(whole: Outcome) -> None:
    curve = whole.curve()
    if not curve[max(curve)]["loss"] < curve[1]["loss"]:
        raise Failed("the loss doesn't fall")


def _course(whole: Outcome, metric: str) -> str:
    return f"{metric}: " + " ".join(f"{step}:{point[metric]:.4g}" for step, point in sorted(whole.curve().items()))


def _same_draws(section: Section, asked: Asked, again: Asked, at: int, device: str) -> bool:
    """Whether the judge was asked the same. What is drawn turns on a sum's last digit, which on a GPU isn't the same
    always: there the prompts have to be, and most of what is drawn from the checkpoint's own weights."""
    prompts, prompts_again = ({n: [item["prompt_id"] for item in i] for n, i in one.items()} for one in (asked, again))
    if prompts != prompts_again:
        raise Failed("the judge was asked about other prompts")
    equal = {n: sum(x == y for x, y in zip(asked[n], again[n], strict=True)) for n in sorted(asked)}
    counts = ", ".join(f"{count} of {len(asked[n])}" for n, count in equal.items())
    section.say(f"completions that are the same, step by step: {counts}")
    same = all(count == len(asked[n]) for n, count in equal.items())
    if not same and (device == "cpu" or 2 * equal[at] < len(asked[at])):
        raise Failed(f"right behind the checkpoint {equal[at]} of {len(asked[at])} completions are the same")
    return same


def _identity(device: Device) -> tuple[str, str, int, int]:
    # The driver gives a part of a GPU the UUID of the whole, torch may not.
    uuid = "" if " MIG " in device["name"] else device["uuid"].lower()
    return uuid, device["name"], device["major"], device["minor"]


def _describe(device: Device) -> str:
    return (
        f"GPU {device['index']}: {device['name']}, {device['uuid']}, capability {device['major']}.{device['minor']}, "
        f"{_size(device['free'])} of {_size(device['total'])} free"
    )


def _size(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"


def _nvidia() -> bool:
    """Whether the machine has a device, whatever drivers and libraries say: those of Linux, and of WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
