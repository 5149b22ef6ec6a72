"""distilabel: one TextGeneration step over a list."""

from job import Job  # isort: skip

import os
from collections.abc import Iterable

# At INFO its client of HTTP logs every request.
os.environ["DISTILABEL_LOG_LEVEL"] = "WARNING"

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepResources
from distilabel.steps.tasks import TextGeneration


def run(job: Job) -> None:
    # A batch's requests are sent at once and awaited together.
    batch = max(1, job.in_flight // job.processes)
    with Pipeline(name="job", cache_dir=job.work / "cache") as pipeline:
        load = LoadDataFromDicts(
            data=[{"id": row["id"], "instruction": row["text"]} for row in job.rows()], batch_size=batch
        )
        teacher = TextGeneration(
            name="teacher",
            llm=OpenAILLM(
                model="mock-teacher",
                base_url=job.url,
                api_key="none",
                generation_kwargs={"max_new_tokens": 1024, "temperature": 1.0},
            ),
            system_prompt=job.system.read_text(),
            input_batch_size=batch,
            add_raw_input=False,  # would keep the policy in every row
            resources=StepResources(replicas=job.processes),
        )
        load >> teacher
    distiset = pipeline.run(use_cache=job.durable)
    distiset["default"]["train"].to_parquet(job.work / "answers.parquet")


def answered(job: Job) -> Iterable[str]:
    file = job.work / "answers.parquet"
    if not file.exists():
        return []
    import pyarrow.parquet as pq

    return (row["id"] for row in pq.read_table(file, columns=["id", "generation"]).to_pylist() if row["generation"])


if __name__ == "__main__":
    Job().main(run, answered)
