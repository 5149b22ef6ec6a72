"""An OpenAI-compatible chat endpoint over `model.generate`, in batches.

Requests that wait are generated together, whatever their sampling settings are: each row of a batch is scaled by its
own temperature and drawn with its own seed, so that an answer depends on its request and not on its neighbours (up to
the last bits of a matrix product, whose order of summation the size of a batch can change).
"""

import asyncio
import json
import queue
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Annotated, Any, Literal

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from precept_trainer.job import Serve
from precept_trainer.model import device_of, load, load_tokenizer
from precept_trainer.protocol import Events, JobError, invalid

One = Annotated[float, Field(ge=1, le=1)]
Zero = Annotated[float, Field(ge=0, le=0)]

_GATHER_S = 0.02  # how long a batch waits for company; clients that were answered together ask again together


class Message(BaseModel):
    """A turn of a conversation."""

    role: str
    content: str


class StreamOptions(BaseModel):
    """What a stream holds."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What a request may hold. Anything else is refused: an ignored setting would be a wrong answer. Settings that
    clients send although they change nothing are taken at the value that changes nothing."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        return {k: v for k, v in body.items() if v is not None} if isinstance(body, dict) else body

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    """0, the default, is greedy."""
    seed: int = 0
    """Of the first answer; the others have the seeds behind it."""
    stop: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = []
    """The answer ends before the first of these; it is generated to its end all the same."""
    n: int = Field(default=1, ge=1, le=64)
    stream: bool = False
    """A stream holds each answer in one piece."""
    stream_options: StreamOptions = StreamOptions()
    top_p: One = 1
    frequency_penalty: Zero = 0
    presence_penalty: Zero = 0
    user: str = ""
    metadata: dict[str, str] = {}

    @property
    def limit(self) -> int:
        return self.max_completion_tokens or self.max_tokens or 512


@dataclass
class Answer:
    """What the model wrote for one request."""

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    cached_tokens: int = 0

    def before(self, stops: list[str]) -> "Answer":
        """The answer up to the first of `stops`."""
        ends = [at for at in (self.text.find(stop) for stop in stops if stop) if at >= 0]
        return replace(self, text=self.text[: min(ends)], finish_reason="stop") if ends else self


@dataclass
class Waiting:
    """A request on its way to a batch."""

    prompt: list[int]
    limit: int
    temperature: float
    seed: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.answer = self.loop.create_future()

    def resolve(self, outcome: Answer | Exception) -> None:
        self.loop.call_soon_threadsafe(self._resolve, outcome)

    def _resolve(self, outcome: Answer | Exception) -> None:
        if self.answer.done():  # the client has gone
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class SamplePerRow(LogitsProcessor):  # type: ignore[misc]
    """Draws each row by its own temperature and seed.

    The largest of logits / temperature plus Gumbel noise is a sample of the softmax, so greedy search over what this
    returns samples the rows with a temperature and stays greedy for the others.
    """

    def __init__(self, temperatures: list[float], seeds: list[int]) -> None:
        self._rows = [
            (row, temperature, torch.Generator().manual_seed(seed % 2**63))
            for row, (temperature, seed) in enumerate(zip(temperatures, seeds, strict=True))
            if temperature > 0
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._rows:
            return scores
        scores = scores.clone()
        for row, temperature, generator in self._rows:
            noise = torch.empty(scores.shape[1]).exponential_(generator=generator).log().neg()
            scores[row] = scores[row] / temperature + noise.to(scores.device)
        return scores


class Prefix:
    """What the model has read of the last prompt that it answered alone.

    The next one is read from where it begins to differ: a policy in context is read once for all prompts behind it.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config
        self._ids: list[int] = []
        self._cache: DynamicCache | None = None

    def take(self, prompt: list[int]) -> tuple[DynamicCache, int]:
        """A cache for `prompt`, which the caller may change, and how many tokens of it are in there already."""
        # The last token must be read, or there is nothing to predict the next one from.
        pairs = zip(self._ids, prompt[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        cache, self._cache, self._ids = self._cache, None, []
        if cache is None or shared == 0 or not cache.is_croppable:
            return DynamicCache(config=self._config), 0
        cache.crop(shared - cache.get_seq_length())
        return cache, shared

    def keep(self, ids: list[int], cache: DynamicCache) -> None:
        self._ids, self._cache = ids, cache


class Batcher:
    """One thread that generates for whoever waits, up to `max_batch` requests at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_batch: int) -> None:
        self._model, self._tokenizer, self._max_batch = model.eval(), tokenizer, max_batch
        self._prefix = Prefix(model.config)
        self._queue: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="batcher", daemon=True).start()

    def add(self, waiting: Waiting) -> None:
        self._queue.put(waiting)

    def _work(self) -> None:
        while True:
            batch = self._gather()
            try:
                answers = self.generate(
                    [w.prompt for w in batch],
                    [w.limit for w in batch],
                    [w.temperature for w in batch],
                    [w.seed for w in batch],
                )
            except Exception as err:  # reaches every client of the batch; the next batch may fit
                for waiting in batch:
                    waiting.resolve(err)
                continue
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.resolve(answer)

    def _gather(self) -> list[Waiting]:
        batch = [self._queue.get()]
        while len(batch) < self._max_batch:
            try:
                batch.append(self._queue.get(timeout=_GATHER_S))
            except queue.Empty:
                break
        return batch

    @torch.inference_mode()
    def generate(
        self, prompts: list[list[int]], limits: list[int], temperatures: list[float], seeds: list[int]
    ) -> list[Answer]:
        """Answers for a batch of prompts, padded on the left."""
        end = self._tokenizer.eos_token_id
        width = max(map(len, prompts))
        ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts], device=self._model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._model.device)
        # Rows of a batch are padded to one width, so that only a prompt alone has a prefix to share.
        alone = len(prompts) == 1 and self._max_batch == 1
        cache, cached = self._prefix.take(prompts[0]) if alone else (None, 0)
        generated = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=max(limits),
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
            logits_processor=LogitsProcessorList([SamplePerRow(temperatures, seeds)]),
        )
        if cache is not None:
            self._prefix.keep(prompts[0], cache)
        return [self._answer(row[width:].tolist(), limit, cached) for row, limit in zip(generated, limits, strict=True)]

    def _answer(self, ids: list[int], limit: int, cached: int) -> Answer:
        ids = ids[:limit]
        end = self._tokenizer.eos_token_id
        ended = end in ids
        text_ids = ids[: ids.index(end)] if ended else ids
        # Special tokens stay, as some tokenizers have the tags around the chain of thought among them.
        text = self._tokenizer.decode(text_ids, skip_special_tokens=False)
        return Answer(text, len(text_ids) + ended, "stop" if ended else "length", cached)


def app(batcher: Batcher, tokenizer: PreTrainedTokenizerBase, name: str, context: int) -> FastAPI:
    """The endpoint: /v1/chat/completions, /v1/models, /health."""
    api = FastAPI()

    @api.exception_handler(RequestValidationError)
    async def refused(_: Any, err: RequestValidationError) -> JSONResponse:
        return _error(400, "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in err.errors()))

    @api.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> dict[str, Any] | JSONResponse | StreamingResponse:
        if request.model != name:
            return _error(404, f"model {request.model!r} is not served here, {name!r} is", code="model_not_found")
        text = tokenizer.apply_chat_template(
            [m.model_dump() for m in request.messages], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        if request.limit >= context:
            return _error(
                400, f"too many new tokens: {request.limit} exceed the context of {context}", code="invalid_value"
            )
        if len(prompt) + request.limit > context:
            return _error(
                400,
                f"{len(prompt)} prompt tokens and {request.limit} new ones exceed the context of {context}",
                code="context_length_exceeded",
            )
        loop = asyncio.get_running_loop()
        waiting = [
            Waiting(prompt, request.limit, request.temperature, request.seed + i, loop) for i in range(request.n)
        ]
        for one in waiting:
            batcher.add(one)
        try:
            answers = [(await one.answer).before(request.stop) for one in waiting]
        except Exception as err:
            return _error(500, f"{type(err).__name__}: {err}", type_="server_error")
        written = sum(answer.tokens for answer in answers)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": written,
            "total_tokens": len(prompt) + written,
            "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in answers)},
        }
        if request.stream:
            return _stream(head, answers, usage if request.stream_options.include_usage else None)
        return {
            **head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": i,
                    "message": {"role": "assistant", "content": answer.text},
                    "finish_reason": answer.finish_reason,
                }
                for i, answer in enumerate(answers)
            ],
            "usage": usage,
        }

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "precept"}]}

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return api


def _stream(head: dict[str, Any], answers: list[Answer], usage: dict[str, Any] | None) -> StreamingResponse:
    """The answers as server-sent events."""
    chunks: list[dict[str, Any]] = []
    for i, answer in enumerate(answers):
        said = {"role": "assistant", "content": answer.text}
        chunks.append({"choices": [{"index": i, "delta": said, "finish_reason": None}]})
        chunks.append({"choices": [{"index": i, "delta": {}, "finish_reason": answer.finish_reason}]})
    if usage is not None:
        chunks.append({"choices": [], "usage": usage})
    events = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks] + ["[DONE]"]
    return StreamingResponse(iter(f"data: {event}\n\n" for event in events), media_type="text/event-stream")


def _error(status: int, message: str, code: str | None = None, type_: str = "invalid_request_error") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": type_, "code": code}}, status_code=status)


def run(job: Serve, events: Events) -> None:
    """Serves until a signal; requests under way are answered first."""
    device = device_of(job.device, job.threads)
    tokenizer = load_tokenizer(job.model)
    model: Any = load(job.model, tokenizer, torch.bfloat16 if job.dtype == "bfloat16" else torch.float32)
    model.to(device)
    batcher = Batcher(model, tokenizer, job.max_batch)
    batcher.generate([[tokenizer.eos_token_id]], [1], [0.0], [0])  # what can't generate must not call itself ready

    try:
        listener = socket.create_server((job.host, job.port), backlog=1024)
    except OSError as err:
        if isinstance(err, socket.gaierror):
            raise invalid(f"serve on {job.host}:{job.port}: {err}") from err
        raise JobError("Unavailable", f"serve on {job.host}:{job.port}: {err}") from err
    port = listener.getsockname()[1]
    context = int(model.config.get_text_config().max_position_embeddings)
    server = uvicorn.Server(
        uvicorn.Config(app(batcher, tokenizer, job.name, context), log_config=None, access_log=False)
    )
    events.emit("ready", url=f"http://{job.host}:{port}/v1", model=job.name)
    server.run(sockets=[listener])
