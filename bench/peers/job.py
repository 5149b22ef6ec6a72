"""What the scripts of all peers share: their arguments, their prompts and what they report.

A script is called as `python NAME.py run|count --work DIR ...`. `run` does the job and
prints its measurements as the last line of its output; `count` prints how many prompts
have an answer in the Parquet files that the job left.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# Nothing that a peer would send home or ask a hub for belongs into a measurement.
os.environ.update(
    NEMO_TELEMETRY_ENABLED="false",
    TELEMETRY_ENABLED="false",
    HF_HUB_OFFLINE="1",
    OPENAI_API_KEY="none",
)


class Job:
    """One call of a script: its arguments as attributes."""

    def __init__(self) -> None:
        p = argparse.ArgumentParser()
        p.add_argument("command", choices=["run", "count"])
        p.add_argument("--work", type=Path, required=True, help="the job's folder; running again there resumes")
        p.add_argument("--url", help="base URL of the endpoint, with /v1")
        p.add_argument("--prompts", type=Path, help="JSON Lines with id and text")
        p.add_argument("--system", type=Path, help="the system message")
        p.add_argument("--in-flight", type=int, default=64)
        p.add_argument("--processes", type=int, default=1, help="where the peer can use several")
        p.add_argument("--chunk", type=int, help="rows that the peer finishes together, where it has such a unit")
        p.add_argument("--durable", action="store_true", help="with what the peer needs to resume")
        p.add_argument("--tolerant", action="store_true", help="with the peer's option to go on without failed rows")
        args = p.parse_args()
        self.__dict__.update(vars(args))
        self.work.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict]:
        with self.prompts.open() as f:
            return [{"id": row["id"], "text": row["text"]} for row in map(json.loads, f)]

    def main(self, run: Callable[["Job"], None], answered: Callable[["Job"], Iterable[str]]) -> None:
        """Runs the job, or counts the ids that `answered` finds."""
        if self.command == "count":
            print(json.dumps({"rows": len(set(answered(self)))}))
            return
        cpu, begun = os.times(), time.monotonic()
        run(self)
        print()
        print(json.dumps({"seconds": time.monotonic() - begun, "startup_cpu": cpu.user + cpu.system}))
        sys.stdout.flush()


def parquet(folder: Path, columns: list[str]) -> list[dict]:
    """The rows of all Parquet files under a folder."""
    import pyarrow.parquet as pq

    return [
        row for f in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(f).read(columns=columns).to_pylist()
    ]
