"""`python -m gpucheck`: checks one section after the other and writes the page."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from gpucheck.check import Check
from gpucheck.training import ROOT, Place


def main(arguments: list[str] | None = None) -> int:
    args = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        return Check(args, Place(Path(folder), args.limit, {})).run()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpucheck", description="Checks training on this machine's GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the check itself")
    parser.add_argument("--model", type=Path, help="folder of the model; SmolLM2, or one with random weights")
    parser.add_argument("--size", choices=["small", "tiny"], default="small", help="how much is trained")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["sft", "beside", "rl"],
        default=["sft", "beside", "rl"],
        help="what is trained; beside is SFT and the same by TRL alone",
    )
    parser.add_argument("--bin", type=Path, default=ROOT / ".precept/bin", help="folder of gpuprobe and gpuplan")
    parser.add_argument("--out", type=Path, help="folder of the result; $OUT, or .precept/gpu-check")
    parser.add_argument("--limit", type=float, default=240, help="seconds that one process may take")
    args = parser.parse_args(arguments)
    if args.out is None:
        args.out = Path(os.environ.get("OUT") or ROOT / ".precept/gpu-check")
    return args


if __name__ == "__main__":
    sys.exit(main())
