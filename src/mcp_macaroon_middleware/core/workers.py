"""Worker threads for checks that may wait: some for each plugin, so that one which hangs holds up no other. They judge
nothing, and none of them keeps a process alive that wants to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final

THREADS: Final = 8
"""The most threads of one plugin; one that hangs is never given back."""
WAITING: Final = 64
"""The most jobs of one plugin that wait for a thread."""

Job = tuple[Future[Any], Callable[[], Any]]


class Workers:
    """The threads of every plugin, each started when there is work for it."""

    def __init__(self) -> None:
        self._crews: dict[str, _Crew] = {}
        self._lock = threading.Lock()

    def submit(self, plugin: str, call: Callable[[], Any]) -> Future[Any] | None:
        """What `call` will return, in a thread of this plugin; None where too much waits for one already."""
        with self._lock:
            crew = self._crews.get(plugin)
            if crew is None:
                crew = self._crews[plugin] = _Crew()
        return crew.take(call)

    def close(self) -> None:
        """Lets the threads end, without waiting for what still runs in them."""
        with self._lock:
            crews, self._crews = self._crews, {}
        for crew in crews.values():
            crew.close()


class _Crew:
    """The threads of one plugin."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0  # jobs that wait or run, one that hangs among them

    def take(self, call: Callable[[], Any]) -> Future[Any] | None:
        with self._lock:
            if self._open >= THREADS + WAITING:
                return None
            self._open += 1
            fresh = self._threads < min(self._open, THREADS)
            self._threads += fresh
        future: Future[Any] = Future()
        future.add_done_callback(self._done)
        self._jobs.put((future, call))
        if fresh:
            threading.Thread(target=self._work, name="macaroon-check", daemon=True).start()
        return future

    def close(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._open -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():  # nobody waits any more for one that was cancelled
                _run(future, call)
            del job, future, call  # an idle thread holds no request


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        answer = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(answer)
