import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Process, prompt

from precept_trainer.serve import SamplePerRow


def ask(url: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        url + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return dict(json.load(answer))


def stream(url: str, **body: Any) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        url + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        lines = [line.decode().removeprefix("data: ").strip() for line in answer if line.strip()]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_serves_chat_requests(model: Path, start: Callable[[str, dict[str, Any]], Process]) -> None:
    process = start("serve", {"model": str(model), "name": "tiny", "max_batch": 4, "device": "cpu"})
    ready = process.wait_for("ready")
    assert ready["model"] == "tiny"
    url = ready["url"]
    base = {"model": "tiny", "max_tokens": 6}

    def text(number: int, **settings: Any) -> str:
        answer = ask(url, **base, messages=prompt(number), **settings)
        assert answer["usage"]["total_tokens"] > answer["usage"]["completion_tokens"] > 0
        return str(answer["choices"][0]["message"]["content"])

    alone = [text(i, temperature=0) for i in range(4)]
    drawn = [text(i, temperature=1, seed=i) for i in range(4)]
    assert drawn != alone
    assert len({text(0, temperature=1, seed=s) for s in range(4)}) > 1
    # The same requests side by side, in batches that mix both kinds.
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: text(i % 4, temperature=i // 4, seed=i % 4), range(8)))
    assert together == alone + drawn

    long = ask(url, **{**base, "max_tokens": 1}, messages=prompt(1))
    assert long["choices"][0]["finish_reason"] == "length"
    assert long["usage"]["completion_tokens"] == 1

    # What evaluation harnesses send beside: several answers, ends, streams, and settings that change nothing.
    neutral = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": None, "stop": None}
    several = ask(url, **base, messages=prompt(1), temperature=1, seed=0, n=3, **neutral)["choices"]
    assert [c["message"]["content"] for c in several] == [text(1, temperature=1, seed=s) for s in range(3)]
    assert [c["index"] for c in several] == [0, 1, 2]
    end = alone[1][2:4]
    cut = ask(url, **base, messages=prompt(1), stop=["never said", end])["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (alone[1][: alone[1].index(end)], "stop")
    events = stream(url, **base, messages=prompt(1), stream=True, stream_options={"include_usage": True})
    assert events[0]["choices"][0]["delta"]["content"] == alone[1]
    assert events[1]["choices"][0]["finish_reason"] in {"stop", "length"}
    assert events[2]["usage"]["total_tokens"] > 6

    for status, wrong in (
        (404, {"model": "other"}),
        (400, {"response_format": {"type": "json_object"}}),
        (400, {"max_tokens": 100_000}),
        (400, {"messages": []}),
        (400, {"n": 0}),
        (400, {"top_p": 0.9}),
        (400, {"frequency_penalty": 0.5}),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url, **{**base, "messages": prompt(1), **wrong})
        assert caught.value.code == status
        assert json.load(caught.value)["error"]["message"]

    process.terminate()
    assert process.end() == 0
    assert [e["event"] for e in process.events] == ["ready"]


def test_reads_a_shared_prefix_once(model: Path, start: Callable[[str, dict[str, Any]], Process]) -> None:
    policy = {"role": "system", "content": "Refuse what harms people. " * 30}
    prompts = [[policy, *prompt(i)] for i in (1, 2, 1, 3)]

    def answers(max_batch: int) -> list[dict[str, Any]]:
        process = start("serve", {"model": str(model), "name": "tiny", "max_batch": max_batch, "device": "cpu"})
        url = process.wait_for("ready")["url"]
        out = [ask(url, model="tiny", max_tokens=8, messages=p) for p in [*prompts, prompt(4)]]
        process.terminate()
        process.end()
        return out

    shared, apart = answers(1), answers(2)
    text = [[a["choices"][0]["message"]["content"] for a in side] for side in (shared, apart)]
    assert text[0] == text[1]
    cached = [[a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in side] for side in (shared, apart)]
    assert cached[1] == [0] * 5
    first, *others, stranger = cached[0]
    assert first == 0
    assert all(n > 100 for n in others)
    assert stranger < 100


def test_rows_are_drawn_from_the_softmax() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    sampler = SamplePerRow([2.0, 0.0], [1, 1])
    drawn = torch.stack([sampler(torch.empty(0), scores).argmax(-1) for _ in range(4000)])
    share = torch.bincount(drawn[:, 0], minlength=3) / len(drawn)
    assert torch.allclose(share, torch.softmax(scores[0] / 2, -1), atol=0.03)
    assert (drawn[:, 1] == 0).all()
