import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import call
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

from precept_trainer import base


def convert(folder: Path, **job: Any) -> tuple[dict[str, Any], int]:
    events, code = call("base", {"output": str(folder / "out"), **job}, folder)
    return events[-1], code


def test_a_model_of_a_hub_comes_at_a_commit(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **settings: Any) -> str:
        asked.append({"name": name, **settings})
        return str(shutil.copytree(model, tmp_path / "snapshots" / "c0ffee"))

    monkeypatch.setattr(base, "snapshot_download", snapshot)
    event, code = convert(tmp_path, source="org/name", revision="v1")
    assert (code, event["event"], event["commit"]) == (0, "done", "c0ffee")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (asked[0]["name"], asked[0]["revision"]) == ("org/name", "v1")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked[0]["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (LocalEntryNotFoundError("no way there"), "Unavailable", "trainer.mirror"),
        (RevisionNotFoundError.__new__(RevisionNotFoundError), "InvalidInput", "org/name@v1: it has no such revision"),
    ],
)
def test_what_a_hub_refuses_is_told(
    error: Exception, kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(base, "snapshot_download", snapshot)
    event, _ = convert(tmp_path, source="org/name", revision="v1")
    assert (event["event"], event["kind"]) == ("error", kind)
    assert message in event["message"]


def test_pickles_are_not_read(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    event, code = convert(tmp_path, source=str(folder))
    assert (code, event["kind"]) == (2, "InvalidInput")
    assert "not safetensors (pytorch_model.bin)" in event["message"]


def test_code_beside_a_model_is_not_run(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    event, code = convert(tmp_path, source=str(folder))
    assert (code, event["kind"]) == (2, "InvalidInput"), event
    assert "code of its own" in event["message"]
    assert not (tmp_path / "ran").exists()
