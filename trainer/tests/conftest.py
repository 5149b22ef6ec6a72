"""A tiny model with a byte-level tokenizer, rows to train on, and the trainer as a process or a call."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from precept_trainer.__main__ import run
from precept_trainer.protocol import Events, StopRequest

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COT = "The user asks for help: water a plant. Policy violence, rule V3: comply."
Event = dict[str, Any]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    fast.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    events, code = call("tiny", {"tokenizer_from": str(tokenizer), "output": str(folder)}, folder.parent)
    assert code == 0, events
    return folder


def prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"How do I water plant {number}?"}]


@pytest.fixture(scope="session")
def sft_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "id": f"r{i}",
            "prompt": prompt(i),
            "completion": [{"role": "assistant", "content": f"<think>\n{COT}\n</think>\n\n{'Slowly. ' * (1 + i % 3)}"}],
        }
        for i in range(16)
    ]
    return write(tmp_path_factory.mktemp("data") / "sft.parquet", rows)


@pytest.fixture(scope="session")
def rl_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "prompt_id": f"p{i}",
            "category": "violence",
            "intent": "benign",
            "language": "en",
            "source": "test",
            "prompt": prompt(i),
            "extra": i,
        }
        for i in range(4)
    ]
    return write(tmp_path_factory.mktemp("data") / "rl.parquet", rows)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def call(kind: str, job: dict[str, Any], folder: Path, stop: StopRequest | None = None) -> tuple[list[Event], int]:
    """Runs a job in this process."""
    out = io.StringIO()
    path = folder / "job.json"
    path.write_text(json.dumps({"kind": kind, **job}))
    code = run(kind, path, Events(out), StopRequest() if stop is None else stop)
    return [json.loads(line) for line in out.getvalue().splitlines()], code


class Process:
    """The trainer as its own process, whose standard output is parsed as events line by line."""

    def __init__(self, kind: str, job: dict[str, Any], folder: Path) -> None:
        path = folder / "job.json"
        path.write_text(json.dumps({"kind": kind, **job}))
        self.events: list[Event] = []
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "precept_trainer", kind, "--job", str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"},
            text=True,
        )

    def wait_for(self, name: str) -> Event:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"no {name} event, but {self.events}")

    def terminate(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def end(self) -> int:
        assert self._popen.stdout is not None
        self.events += [json.loads(line) for line in self._popen.stdout]
        return self._popen.wait(timeout=60)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, dict[str, Any]], Process]]:
    started: list[Process] = []

    def start(kind: str, job: dict[str, Any]) -> Process:
        started.append(Process(kind, job, tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()


class RewardServer:
    """Answers with rewards in a fixed order and keeps what it was asked.

    The reward is three parts compliance and one part style, which is the same for all.
    """

    weights: ClassVar = {"compliance": 0.75, "style": 0.25, "format": 0}

    def __init__(self, answer: Callable[[int], list[float | None]], failures: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.status: Callable[[int], int] = lambda number: 200  # by the number of the request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                nonlocal failures
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if failures:
                    failures -= 1
                    self.send_error(503)
                    return
                status = outer.status(len(outer.bodies))
                outer.bodies.append(body)
                outer.tokens.add(self.headers["Authorization"])
                if status != 200:
                    self.send_error(status)
                    return
                content = json.dumps(outer.reply(answer(len(body["items"])))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/reward"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, rewards: list[Any]) -> dict[str, Any]:
        def each(score: Callable[[float], float]) -> list[Any]:
            return [score(r) if isinstance(r, float) else r for r in rewards]

        terms = {
            "compliance": each(lambda r: (r - 0.125) / 0.75),
            "style": each(lambda _: 0.5),
            "format": each(lambda _: 1.0),
        }
        return {"rewards": rewards, "terms": terms}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
