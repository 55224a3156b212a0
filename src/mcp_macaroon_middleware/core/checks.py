"""Runs checks in isolation: whatever one does, it yields a `Verdict`, and a fault yields a refusal (law L2).

A check that raises, outlives the deadline, returns something else or finds no free thread refuses. A deadline abandons
a verdict, not a thread: plugins are trusted code.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ..errors import StoreUnavailable
from ..model import Effect, RequestContext, Result, Verdict
from ..plugin.contract import Check, Clock, Store
from .binding import BoundCheck
from .plan import Match

logger: Final = logging.getLogger("mcp_macaroon_middleware")

_OWN: Final = (StoreUnavailable,)
SLOW: Final = 0.05
THREADS: Final = 8
WAITING: Final = 64


class Runner:
    """Builds each check's input and runs checks; one a process is enough. `stores` gives a plugin its own namespace."""

    def __init__(self, clock: Clock, stores: Callable[[str], Store]) -> None:
        self._clock = clock
        self._stores = stores
        self._threads: ThreadPoolExecutor | None = None
        self._busy = 0
        self._reported: set[str] = set()

    def close(self) -> None:
        """Lets go of the worker threads without waiting for what still runs in them."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def judge_now(self, match: Match, request: RequestContext) -> Verdict:
        """The verdict of a check whose answer depends on the rule and the component alone."""
        check = self._input(match.check, request, None)
        answer = _call(match.check, check)
        if inspect.isawaitable(answer):
            _drop(answer)
            return _contract(match.check, "a constant check must not be async")
        return _checked(match.check, answer)

    async def judge(
        self, matches: Sequence[Match], request: RequestContext, result: Result | None = None
    ) -> list[Verdict]:
        """One verdict a match, in their order. Inline checks run here; the others share one deadline."""
        judged: list[Verdict | None] = [None] * len(matches)
        later: list[tuple[int, BoundCheck, Awaitable[Any]]] = []
        blocking: list[tuple[int, BoundCheck, Check[Any]]] = []
        for number, match in enumerate(matches):
            bound = match.check
            check = self._input(bound, request, result)
            if bound.enforcer.blocking:
                blocking.append((number, bound, check))
                continue
            started = time.perf_counter()
            answer = _call(bound, check)
            self._report_slow(bound, time.perf_counter() - started)
            if not isinstance(answer, Verdict) and inspect.isawaitable(answer):
                later.append((number, bound, answer))
            else:
                judged[number] = _checked(bound, answer)
        if later or blocking:
            for number, verdict in await self._wait(later, blocking):
                judged[number] = verdict
        return [
            verdict if verdict is not None else _timeout(match.check)
            for match, verdict in zip(matches, judged, strict=True)
        ]

    def _input(self, bound: BoundCheck, request: RequestContext, result: Result | None) -> Check[Any]:
        return Check(
            request=request,
            rule=bound.view,
            params=bound.params,
            action=bound.judged,
            clock=self._clock,
            store=self._stores(bound.plugin),
            result=result,
            settings=bound.settings,
        )

    def _report_slow(self, bound: BoundCheck, seconds: float) -> None:
        if seconds > SLOW and bound.enforcer.name not in self._reported:
            self._reported.add(bound.enforcer.name)
            logger.warning(
                "enforcer %s held the event loop for %.0f ms; declare blocking=True",
                bound.enforcer.name,
                seconds * 1000,
            )

    async def _wait(
        self,
        later: Sequence[tuple[int, BoundCheck, Awaitable[Any]]],
        blocking: Sequence[tuple[int, BoundCheck, Check[Any]]],
    ) -> list[tuple[int, Verdict]]:
        """Waits for async and blocking checks together; the deadline is the longest of their timeouts."""
        deadline = max(bound.enforcer.timeout for _, bound, _ in (*later, *blocking))
        verdicts: list[tuple[int, Verdict]] = []
        tasks = [asyncio.ensure_future(_settle(number, bound, answer, verdicts)) for number, bound, answer in later]
        if blocking:
            tasks.append(asyncio.ensure_future(self._in_thread(blocking, verdicts)))
        try:
            _, pending = await asyncio.wait(tasks, timeout=deadline)
        except asyncio.CancelledError:
            _abandon(tasks)
            raise
        _abandon(pending)
        return list(verdicts)

    async def _in_thread(
        self, blocking: Sequence[tuple[int, BoundCheck, Check[Any]]], verdicts: list[tuple[int, Verdict]]
    ) -> None:
        """Runs all blocking checks of a request in one hop; what they leave to await is awaited here."""
        if self._busy >= THREADS + WAITING:
            verdicts.extend((number, _busy(bound)) for number, bound, _ in blocking)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="macaroon-check")
        self._busy += 1
        context = contextvars.copy_context()
        future = self._threads.submit(context.run, _run_all, blocking)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _later(loop, self._release))
        for number, bound, answer in await asyncio.wrap_future(future):
            await _settle(number, bound, answer, verdicts)

    def _release(self) -> None:
        self._busy -= 1


def _later(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if loop.is_closed():
        call()
    else:
        loop.call_soon_threadsafe(call)


def _run_all(blocking: Sequence[tuple[int, BoundCheck, Check[Any]]]) -> list[tuple[int, BoundCheck, Any]]:
    return [(number, bound, _call(bound, check)) for number, bound, check in blocking]


def _call(bound: BoundCheck, check: Check[Any]) -> Any:
    """What the check answers: a verdict, an awaitable or anything else; never an exception but KeyboardInterrupt."""
    try:
        return bound.enforcer.check(check)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed(bound, error)


async def _settle(number: int, bound: BoundCheck, answer: Any, verdicts: list[tuple[int, Verdict]]) -> None:
    verdicts.append((number, await _awaited(bound, answer)))


async def _awaited(bound: BoundCheck, answer: Any) -> Verdict:
    try:
        while inspect.isawaitable(answer):
            answer = await answer
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return _failed(bound, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed(bound, error)
    return _checked(bound, answer)


def _checked(bound: BoundCheck, answer: Any) -> Verdict:
    if not isinstance(answer, Verdict):
        return _contract(bound, f"returned {type(answer).__name__}, not a Verdict")
    if answer.effect is Effect.ASK and answer.question is None:
        return _contract(bound, "asks without a question")
    return answer


def _failed(bound: BoundCheck, error: BaseException) -> Verdict:
    """A refusal; the exception's text may hold a protected value, so only its type is kept (law L7)."""
    logger.error("enforcer %s raised %s", bound.enforcer.name, type(error).__name__)
    code = getattr(error, "code", None) if isinstance(error, _OWN) else None
    return Verdict.deny(
        code or "enforcer_error",
        "The policy could not be evaluated.",
        detail=f"{bound.enforcer.name} raised {type(error).__name__}",
    )


def _contract(bound: BoundCheck, what: str) -> Verdict:
    logger.error("enforcer %s %s", bound.enforcer.name, what)
    return Verdict.deny(
        "enforcer_contract", "The policy could not be evaluated.", detail=f"{bound.enforcer.name} {what}"
    )


def _timeout(bound: BoundCheck) -> Verdict:
    logger.error("enforcer %s outlived its deadline", bound.enforcer.name)
    return Verdict.deny(
        "enforcer_timeout", "The policy could not be evaluated in time.", detail=f"{bound.enforcer.name} timed out"
    )


def _busy(bound: BoundCheck) -> Verdict:
    return Verdict.deny(
        "busy", "The server is busy; try again.", detail=f"no thread for {bound.enforcer.name}", retry_after=1.0
    )


def _drop(answer: Any) -> None:
    if isinstance(answer, Coroutine):
        answer.close()


def _abandon(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
        task.add_done_callback(_consume)


def _consume(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
