"""Bespoke Curator: one LLM over a list."""

from job import Job, parquet  # isort: skip

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

os.environ["CURATOR_DISABLE_RICH_DISPLAY"] = "1"
# tiktoken would download its encoding; LiteLLM ships it.
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers")

from bespokelabs import curator


class Teacher(curator.LLM):
    """Asks for one row."""

    def prompt(self, row: dict) -> str:
        return row["text"]

    def parse(self, row: dict, response: str) -> dict:
        return {"id": row["id"], "answer": response}


def run(job: Job) -> None:
    params = {
        "base_url": job.url,
        "max_concurrent_requests": job.in_flight,
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 1_000_000_000_000,
    }
    if job.tolerant:
        params |= {"require_all_responses": False}
    teacher = Teacher(
        model_name="mock-teacher",
        backend="openai",
        system_prompt=job.system.read_text(),
        generation_params={"max_tokens": 1024, "temperature": 1.0},
        backend_params=params,
    )
    response = teacher(job.rows(), working_dir=str(job.work / "cache"))
    response.dataset.to_parquet(job.work / "answers.parquet")


def answered(job: Job) -> Iterable[str]:
    return (row["id"] for row in parquet(job.work, ["id", "answer"]) if row["answer"])


Job().main(run, answered)
