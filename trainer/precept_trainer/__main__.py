"""`python -m precept_trainer <sft|rl|serve|base|tiny> --job job.json`."""

import argparse
import errno
import os
import shutil
import sys
import traceback
from pathlib import Path

from precept_trainer import job as jobs
from precept_trainer.protocol import EXIT_DONE, EXIT_FAILED, Events, JobError, StopRequest, claim_stdout, follow_parent


def run(kind: str, path: Path, events: Events, stop: StopRequest) -> int:
    """Runs one job and returns the exit code; every failure is an event."""
    try:
        job = jobs.read(kind, path)
        # The imports stand here because each pulls in torch, which a wrong job file need not wait for.
        match job:
            case jobs.Sft():
                from precept_trainer import sft

                return sft.run(job, events, stop)
            case jobs.Rl():
                from precept_trainer import rl

                return rl.run(job, events, stop)
            case jobs.Serve():
                from precept_trainer import serve

                serve.run(job, events)
            case jobs.Base():
                from precept_trainer import base

                base.convert(job, events)
            case jobs.Tiny():
                from precept_trainer import base

                base.tiny(job, events)
        return EXIT_DONE
    except JobError as err:
        events.emit("error", kind=err.kind, message=str(err))
        return err.exit_code
    except Exception as err:
        traceback.print_exc()
        if disk_is_full(err, path.parent):
            events.emit(
                "error", kind="Unavailable", message=f"no space is left at {path.parent}; whole checkpoints stay. {err}"
            )
        else:
            events.emit("error", kind="Internal", message=f"{type(err).__name__}: {err}")
        return EXIT_FAILED


def disk_is_full(err: Exception, folder: Path) -> bool:
    """Whether a job failed for want of space. Libraries say so in their own ways, or not at all."""
    told = (isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in str(err)
    return told or shutil.disk_usage(folder).free < 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="precept_trainer")
    parser.add_argument("kind", choices=sorted(jobs.KINDS))
    parser.add_argument("--job", type=Path, required=True)
    args = parser.parse_args()

    events = Events(claim_stdout())
    stop = StopRequest()
    stop.listen()
    follow_parent()
    # No run reports to anybody, and no tokenizer thread competes with torch.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait sleep. Spinning, the default, makes torch several times slower as soon as anything else runs on
    # the same cores. Read when torch is first imported, which is why it is set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(args.kind, args.job, events, stop)


if __name__ == "__main__":
    sys.exit(main())
