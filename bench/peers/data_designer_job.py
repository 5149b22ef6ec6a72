"""NeMo Data Designer: one text column over a seed file."""

from job import Job, parquet  # isort: skip

from collections.abc import Iterable

import data_designer.config as dd
import data_designer.lazy_heavy_imports as lazy
from data_designer.interface import DataDesigner

_ = lazy.pd, lazy.np  # imported now rather than within the job


def run(job: Job) -> None:
    seed = job.work / "seed.parquet"
    lazy.pd.DataFrame(job.rows()).to_parquet(seed)
    config = dd.DataDesignerConfigBuilder(
        model_configs=[
            dd.ModelConfig(
                alias="teacher",
                model="mock-teacher",
                provider="mock",
                inference_parameters=dd.ChatCompletionInferenceParams(
                    max_parallel_requests=job.in_flight, max_tokens=1024, temperature=1.0
                ),
                skip_health_check=True,
            )
        ]
    )
    config.with_seed_dataset(dd.LocalFileSeedSource(path=str(seed)), sampling_strategy=dd.SamplingStrategy.ORDERED)
    # The policy contains no Jinja; it's a literal.
    config.add_column(
        dd.LLMTextColumnConfig(
            name="answer", model_alias="teacher", system_prompt=job.system.read_text(), prompt="{{ text }}"
        )
    )
    designer = DataDesigner(
        artifact_path=job.work / "artifacts",
        model_providers=[dd.ModelProvider(name="mock", endpoint=job.url, api_key="none")],
    )
    designer.set_run_config(
        dd.RunConfig(
            buffer_size=job.chunk or 1000,
            max_in_flight_tasks=max(1024, 2 * job.in_flight),
            jinja_rendering_engine=dd.JinjaRenderingEngine.NATIVE,
            otel_metrics_port=None,
        )
    )
    designer.create(config, num_records=len(job.rows()), dataset_name="job", resume=dd.ResumeMode.IF_POSSIBLE)


def answered(job: Job) -> Iterable[str]:
    folder = job.work / "artifacts" / "job" / "parquet-files"
    return (row["id"] for row in parquet(folder, ["id", "answer"]) if row["answer"])


Job().main(run, answered)
