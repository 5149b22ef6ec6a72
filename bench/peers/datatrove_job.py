"""datatrove: an InferenceRunner that asks an endpoint."""

from job import Job, parquet  # isort: skip

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import ParquetWriter


class Prompts:
    """The part of the prompts that one task reads."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __call__(self, _data: object, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for row in self.rows[rank::world_size]:
            yield Document(id=row["id"], text=row["text"])


async def ask(document: Document, generate: Callable[[dict], Awaitable[Any]], system: str) -> dict:
    result = await generate(
        {"messages": [{"role": "system", "content": system}, {"role": "user", "content": document.text}]}
    )
    return {"answer": result.text}


def run(job: Job) -> None:
    runner = InferenceRunner(
        rollout_fn=ask,
        config=InferenceConfig(
            server_type="endpoint",
            endpoint_url=job.url.removesuffix("/v1"),
            api_key="none",
            model_name_or_path="mock-teacher",
            max_concurrent_generations=max(1, job.in_flight // job.processes),
            default_generation_params={"max_tokens": 1024, "temperature": 1.0},
        ),
        output_writer=ParquetWriter(str(job.work / "answers"), output_filename="${rank}_chunk_${chunk_index}.parquet"),
        shared_context={"system": job.system.read_text()},
        checkpoints_local_dir=str(job.work / "checkpoints") if job.durable else None,
        records_per_chunk=job.chunk or 6000,
        skip_bad_requests=job.tolerant,
    )
    LocalPipelineExecutor(
        pipeline=[Prompts(job.rows()), runner],
        tasks=job.processes,
        workers=job.processes,
        logging_dir=str(job.work / "logs"),
    ).run()


def answered(job: Job) -> Iterable[str]:
    for row in parquet(job.work / "answers", ["id", "metadata"]):
        if any(result["answer"] for result in row["metadata"]["rollout_results"]):
            yield row["id"]


if __name__ == "__main__":
    Job().main(run, answered)
