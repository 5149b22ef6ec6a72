"""What the process says and how it ends.

Standard output carries events alone, one JSON object a line; whatever a library prints goes to standard error.
Exit codes: 0 done, 1 failed, 2 the input is wrong (trying again changes nothing), 3 interrupted with a checkpoint.
"""

import json
import math
import os
import signal
import threading
from types import FrameType
from typing import IO, Any, Literal

Kind = Literal["InvalidInput", "Unavailable", "Internal"]

EXIT_DONE, EXIT_FAILED, EXIT_INVALID, EXIT_INTERRUPTED = 0, 1, 2, 3


class JobError(Exception):
    """A failure with the kind that decides whether the caller tries again."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind

    @property
    def exit_code(self) -> int:
        return EXIT_INVALID if self.kind == "InvalidInput" else EXIT_FAILED


def invalid(message: str) -> JobError:
    return JobError("InvalidInput", message)


class Events:
    """Writes events; of several processes that train together only the first speaks."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._speaks = os.environ.get("RANK", "0") == "0"

    def emit(self, event: str, **fields: Any) -> None:
        if self._speaks:
            self._out.write(json.dumps({"event": event, **_finite(fields)}, allow_nan=False) + "\n")
            self._out.flush()


def claim_stdout() -> IO[str]:
    """Takes descriptor 1 for events and points it at standard error for everybody else."""
    own = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(own, "w", encoding="utf-8")


def _finite(value: Any) -> Any:
    # JSON has no NaN, and a metric that was not measured is no metric.
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items() if v is not None and not _is_nan(v)}
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class StopRequest:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._event.set()
        signal.signal(number, signal.SIG_DFL)


def follow_parent(interval_s: float = 1.0) -> None:
    """Ends the process when the one that started it is gone: a worker that was killed must leave no trainer behind
    that writes where its successor writes."""
    parent = os.getppid()

    def watch() -> None:
        never = threading.Event()
        while not never.wait(interval_s):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
