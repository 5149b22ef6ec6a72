import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from gpucheck import __main__ as gpucheck
from gpucheck import check, inputs, training
from gpucheck.measured import __file__ as measured

CARD = {"index": 0, "uuid": "GPU-a", "name": "card", "total": 4000, "free": 3000, "major": 9, "minor": 0}


def section(page: str, title: str) -> tuple[str, str]:
    """Verdict and reason."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == title:
            return cells[1].strip("*"), cells[2]
    raise AssertionError(f"no section {title} in {page}")


def test_on_the_cpu(model: Path, tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--size", "tiny", "--model", str(model), "--only", "rl", "--out", str(tmp_path)]
    code = gpucheck.main(flags)
    page = (tmp_path / "gpu-check.md").read_text()
    assert code == 0, page
    assert section(page, "RL") == ("PASS", "")
    verdict, reason = section(page, "RL, killed and resumed")
    assert verdict == "PASS", page
    assert reason.startswith("the curves differ by"), page
    assert "killed behind step 2, all 4 steps are taken" in page
    assert section(page, "Memory of RL") == ("NOT CHECKED", "the CPU's memory is not planned")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check.Check, "_torch_view", lambda _: ([], "torch finds no device"))
    monkeypatch.setattr(check, "_nvidia", lambda: False)
    assert gpucheck.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "No NVIDIA GPU on this machine (torch finds no device): nothing is checked."
    ]
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check.Check, "_torch_view", lambda _: ([], "torch finds no device"))
    monkeypatch.setattr(check, "_nvidia", lambda: True)
    programs(tmp_path, [CARD])
    assert gpucheck.main(["--out", str(tmp_path), "--bin", str(tmp_path)]) == 1
    page = (tmp_path / "gpu-check.md").read_text()
    assert section(page, "Devices, by torch") == ("FAIL", "torch finds no device, and the machine has one")
    assert section(page, "Devices, by gpuprobe")[0] == "FAIL"


def programs(folder: Path, devices: list[dict[str, Any]], sick: list[str] | None = None) -> None:
    """Stand-ins for gpuprobe and gpuplan."""
    seen = {"said": "GPU 0", "devices": devices, "sick": sick or []}
    placed = {
        "said": "1 × 8 × 1",
        "processes": 1,
        "dtype": "bfloat16",
        "batch_size": 4,
        "accumulation": 1,
        "checkpointing": False,
        "bytes": 1000,
        "needs": 2000,
    }
    script = (
        f"#!/bin/sh\ncase $1 in\ndevices) echo '{json.dumps(seen)}' ;;\njob) echo '{json.dumps(placed)}' ;;\nesac\n"
    )
    for name in ("gpuprobe", "gpuplan"):
        path = folder / name
        path.write_text(script)
        path.chmod(0o755)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU, whose trainer is a stand-in."""
    trainer = tmp_path / "trainer"
    (trainer / "precept_trainer").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("gpucheck_trainer.py"), trainer / "precept_trainer" / "__main__.py")
    monkeypatch.setattr(training, "TRAINER", trainer)
    monkeypatch.setattr(check.Check, "_torch_view", lambda _: ([CARD], ""))
    programs(tmp_path, [CARD])
    return tmp_path


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("", {}),
        ("curve", {"SFT, killed and resumed": "the curves differ by 0.1", "RL, killed and resumed": "differ by 0.1"}),
        ("steps", {"SFT, killed and resumed": "it takes the steps", "RL, killed and resumed": "it takes the steps"}),
        (
            "restart",
            {"SFT, killed and resumed": "goes on from step 0", "RL, killed and resumed": "goes on from step 0"},
        ),
        ("draws", {"RL, killed and resumed": "right behind the checkpoint 0 of 4 completions are the same"}),
        ("dies", {"SFT": "the stand-in dies", "RL": "the stand-in dies"}),
        ("large", {"Memory of SFT": "the peak is 400% of the estimate", "Memory of RL": "400%"}),
    ],
)
def test_faults_are_found(
    stand_in: Path, model: Path, monkeypatch: pytest.MonkeyPatch, fault: str, failing: dict[str, str]
) -> None:
    monkeypatch.setenv("FAULT", fault)
    flags = ["--size", "tiny", "--model", str(model), "--only", "sft", "rl", "--out", str(stand_in), "--limit", "20"]
    code = gpucheck.main([*flags, "--bin", str(stand_in)])
    page = (stand_in / "gpu-check.md").read_text()
    assert code == (1 if failing else 0), page
    for title in ("Devices, by torch", "Devices, by gpuprobe"):
        assert section(page, title)[0] == "PASS", page
    for title in ("SFT", "SFT, killed and resumed", "Memory of SFT", "RL", "RL, killed and resumed", "Memory of RL"):
        verdict, reason = section(page, title)
        if title in failing:
            assert verdict == "FAIL", page
            assert failing[title] in reason
        else:
            assert verdict == ("NOT CHECKED" if fault == "dies" else "PASS"), page
    if not fault:
        assert section(page, "Memory of SFT") == ("PASS", "the peak is 90% of the estimate")
        assert "100 tokens/s" in page


def test_a_sick_device_and_a_missing_library(
    stand_in: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs(stand_in, [CARD], ["it is sick"])
    version = importlib.metadata.version
    monkeypatch.setattr(check, "_PACKAGES", ["torch", "transformers", "no_such_library"])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1" if name == "torch" else version(name))
    monkeypatch.setattr(
        training.Place, "json", lambda self, *command, **more: fake_json(self, *command, **more), raising=True
    )
    assert gpucheck.main(["--model", str(model), "--out", str(tmp_path), "--bin", str(stand_in)]) == 1
    page = (tmp_path / "gpu-check.md").read_text()
    assert section(page, "Devices, by gpuprobe") == ("FAIL", "it is sick")
    assert section(page, "SFT") == ("NOT CHECKED", "no_such_library isn't installed")
    assert section(page, "transformers alone") == ("PASS", "")
    assert "no_such_library missing" in page
    assert "torch 1 (pinned: " in page


real_json = training.Place.json


def fake_json(place: training.Place, *command: str, **more: Any) -> Any:
    # The device of this test is no device: transformers run on the CPU.
    if "gpucheck.device" in command:
        assert command[3:6] == ("plain", "cuda", "bfloat16")
        return {"loss": 3.0, "tokens": 16, "text": "hello", "peak": 1}
    return real_json(place, *command, **more)


def test_plain_transformers(model: Path) -> None:
    from gpucheck.device import plain

    answer = plain("cpu", "bfloat16", str(model))
    assert answer["tokens"] == 16
    assert 0 < answer["loss"] < 10


def test_what_is_trained_is_the_same_always(tmp_path: Path) -> None:
    one, other = (inputs.make_model(tmp_path / name, inputs.TINY) for name in ("one", "other"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert inputs.layers_of(one) == 1
    rows = inputs.write_rows(tmp_path / "rows.parquet", inputs.TINY)
    assert len({str(row["completion"]) for row in rows}) == len(rows)
    prompt, row = inputs.longest(rows, one)
    assert 0 < prompt < row


def test_a_peak_is_left_by_a_failing_program_too(tmp_path: Path) -> None:
    program, peak = tmp_path / "program.py", tmp_path / "peak.json"
    program.write_text(
        "import sys, types\n"
        "yes = lambda: True\n"
        "cuda = types.SimpleNamespace(is_available=yes, is_initialized=yes)\n"
        "cuda.max_memory_allocated, cuda.max_memory_reserved = lambda: 2, lambda: 3\n"
        "sys.modules['torch'] = types.SimpleNamespace(cuda=cuda)\n"
        "sys.exit(f'{sys.argv[1:]} is wrong')\n"
    )
    place = training.Place(tmp_path, 20, {})
    with pytest.raises(training.Failed, match=r"ends with 1: \['a'\] is wrong"):
        place.json(sys.executable, measured, str(peak), str(program), "a")
    assert json.loads(peak.read_bytes()) == {"allocated": 2, "reserved": 3}
