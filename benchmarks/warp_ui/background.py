"""One piece of work at a time in a thread of its own: how far it is, how long it may take, and how to end it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from gengauge.benchmarks.training.loop import Tell

State = Literal["idle", "running", "done", "cancelled", "failed"]
_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised out of `tell` in the work that is to end."""


class Busy(RuntimeError):
    """Something runs already."""


@dataclass(frozen=True)
class Progress:
    """How far the work is: `done` of `total` steps, seconds since its start and, where known, until its end."""

    state: State = "idle"
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    left: float | None = None
    error: str | None = None


class Background:
    """Work that tells its progress, step by step, and is ended at its next step when asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress = Progress()
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._first: tuple[float, int] | None = None  # when it first told of a step, and of which: what went before
        #                                               is preparation and tells nothing of the pace

    def start(self, work: Callable[[Tell], None]) -> None:
        """Starts the work. Raises Busy where another runs."""
        with self._lock:
            if self._progress.state == "running":
                raise Busy("a training runs already; cancel it or wait for its end")
            self._cancel = threading.Event()
            self._began, self._first = time.monotonic(), None
            self._progress = Progress("running")
            self._thread = threading.Thread(target=self._run, args=(work, self._cancel), daemon=True)
            self._thread.start()

    def progress(self) -> Progress:
        """How far the work is now."""
        with self._lock:
            if self._progress.state != "running":
                return self._progress
            return replace(self._progress, seconds=time.monotonic() - self._began)

    def cancel(self) -> None:
        """Asks the work to end at its next step; nothing happens where none runs."""
        self._cancel.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for the end of the work; whether it has ended."""
        thread = self._thread
        if thread is None:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    def _run(self, work: Callable[[Tell], None], cancel: threading.Event) -> None:
        def tell(done: int, total: int, doing: str) -> None:
            if cancel.is_set():
                raise Cancelled
            now = time.monotonic()
            with self._lock:
                if self._first is None:
                    self._first = now, done
                since, before = self._first
                left = (now - since) / (done - before) * (total - done) if done > before else None
                self._progress = replace(self._progress, done=done, total=total, left=left)

        state: State = "failed"
        error: str | None = "the training ended unexpectedly; the terminal says more"
        try:
            work(tell)
            state, error = "done", None
        except Cancelled:
            state, error = "cancelled", None
        except (ValueError, OSError, RuntimeError) as wrong:
            _log.exception("the training failed")
            error = f"the training failed: {wrong}"
        finally:
            with self._lock:
                seconds = time.monotonic() - self._began
                self._progress = replace(self._progress, state=state, seconds=seconds, left=None, error=error)
