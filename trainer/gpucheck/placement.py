"""What Go says of the machine: its devices, by gpuprobe, and how a worker would place a job, by gpuplan."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpucheck.report import Failed, NotChecked
from gpucheck.training import ROOT, Place


@dataclass(frozen=True)
class Programs:
    """Where they lie; those that are missing are built where that can be done."""

    folder: Path

    def probe(self) -> Path:
        return self._program("gpuprobe", ["make", "--no-print-directory", "cuda"])

    def plan(self) -> Path:
        path = self.folder / "gpuplan"
        return self._program("gpuplan", ["go", "build", "-o", str(path), "./internal/gpu/gpuplan"])

    def _program(self, name: str, build: list[str]) -> Path:
        path = self.folder / name
        if path.is_file():
            return path
        if missing := [tool for tool in ("go", build[0]) if shutil.which(tool) is None]:
            raise NotChecked(f"{path} isn't there, and can't be built without {missing[0]}")
        self.folder.mkdir(parents=True, exist_ok=True)
        built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)  # noqa: S603
        if built.returncode != 0 or not path.is_file():
            said = (built.stderr + built.stdout).strip().splitlines()[-1:] or [""]
            raise NotChecked(f"{path} isn't there, and {' '.join(build)} fails: {said[0][:300]}")
        return path


def devices(place: Place, programs: Programs) -> dict[str, Any]:
    """What a worker sees: the devices, in words too, and which are sick."""
    plan, probe = programs.plan(), programs.probe()
    answer: dict[str, Any] = place.json(str(plan), "devices", str(probe))
    return answer


def place_job(place: Place, programs: Programs, job: dict[str, Any]) -> dict[str, Any]:
    """How a worker would place the job."""
    placed: dict[str, Any] = place.json(str(programs.plan()), "job", stdin=json.dumps(job))
    if placed["processes"] != 1:
        raise Failed(f"one device was given, and the job is placed in {placed['processes']} processes")
    return placed
