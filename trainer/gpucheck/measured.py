"""Runs a program of this environment and leaves the most device memory that it had.

`measured.py FILE PROGRAM ARGS`, where PROGRAM is a module or the path of a script.
"""

import json
import runpy
import sys
from pathlib import Path


def main() -> None:
    out, program = Path(sys.argv[1]), sys.argv[2]
    del sys.path[0]  # this program's folder, which `python -m` wouldn't have there
    sys.argv = [program, *sys.argv[3:]]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
            out.write_text(json.dumps(peak), encoding="utf-8")


if __name__ == "__main__":
    main()
