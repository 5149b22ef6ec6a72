"""Reads shards with pyarrow, DuckDB, datasets and TRL, as their users would.

Called with a model folder, a work folder and arguments kind=path=rows.
"""

import sys
from collections import defaultdict
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from datasets import load_dataset

model, work, *shards = sys.argv[1:]
by_kind: dict[str, list[str]] = defaultdict(list)
for shard in shards:
    kind, path, rows = shard.split("=")
    by_kind[kind].append(path)
    assert pq.read_table(path).num_rows == int(rows), f"pyarrow: {path}"
    [(count,)] = duckdb.sql(f"select count(*) from read_parquet('{path}')").fetchall()
    assert count == int(rows), f"duckdb: {path}"
for kind, paths in by_kind.items():
    data = load_dataset("parquet", data_files=paths, split="train", cache_dir=work)
    print(f"{kind}: {len(paths)} shards, {len(data)} rows, columns {data.column_names}")

from trl import SFTConfig, SFTTrainer  # noqa: E402  (slow to import)

examples = load_dataset("parquet", data_files=by_kind["examples"], split="train", cache_dir=work)
assert not any("<policy" in m["content"] for row in examples for m in row["prompt"]), "a row carries the policy"
trainer = SFTTrainer(
    model=model,
    train_dataset=examples,
    args=SFTConfig(output_dir=str(Path(work) / "out"), max_steps=1, bf16=False, use_cpu=True, report_to=[]),
)
trainer.train()
print(f"TRL trained a step on {len(examples)} rows as they are")
