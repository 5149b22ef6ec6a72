"""Write and read the rows of a Parquet file with pyarrow, and say how long it takes."""

import io
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def clocked(do):
    wall = cpu = float("inf")
    for _ in range(10):
        begun, before = time.perf_counter(), time.process_time()
        result = do()
        wall, cpu = min(wall, time.perf_counter() - begun), min(cpu, time.process_time() - before)
    return result, f"{wall * 1e3:.1f} ms, {cpu * 1e3:.1f} ms CPU"


def written(table):
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", compression_level=3)
    return out.getvalue()


body = Path(sys.argv[1]).read_bytes()
print("version", pa.__version__)
for threads in (False, True):
    table, took = clocked(lambda: pq.read_table(io.BytesIO(body), use_threads=threads))
    print(f"read Precept's file, use_threads={threads}: {took}")
    rows, took = clocked(lambda: pq.read_table(io.BytesIO(body), use_threads=threads).to_pylist())
    print(f"read into Python's rows, use_threads={threads}: {took}")
own, took = clocked(lambda: written(table))
print(f"write {table.num_rows} rows, {len(own)} bytes: {took}")
_, took = clocked(lambda: written(pa.Table.from_pylist(rows, schema=table.schema)))
print(f"write from Python's rows: {took}")
for threads in (False, True):
    _, took = clocked(lambda: pq.read_table(io.BytesIO(own), use_threads=threads))
    print(f"read its own file, use_threads={threads}: {took}")
# Arrow's threads sometimes abort an interpreter that ends by itself.
sys.stdout.flush()
os._exit(0)
