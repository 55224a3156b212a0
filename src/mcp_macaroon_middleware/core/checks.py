"""Runs checks in isolation: whatever one does, it yields a `Verdict`, and a fault yields a refusal (law L2).

A check that raises, outlives the deadline, returns something else or finds no free thread refuses: a verdict that comes
late is none, whichever way it comes. A deadline abandons a verdict, not a thread: plugins are trusted code. Each plugin
has threads of its own, and the audit is told of one that fails time after time.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import StoreUnavailable
from ..model import ALLOW, Charge, Edit, Effect, Principal, Question, RequestContext, Result, Verdict
from ..plugin.contract import Check, Clock, Store
from .binding import BoundCheck
from .failing import Event, Failing
from .plan import Match
from .workers import Workers

logger: Final = logging.getLogger("mcp_macaroon_middleware")

_OWN: Final = (StoreUnavailable,)
_ELSEWHERE: Final = ("busy", _OWN[0].code)  # what refuses then is not the plugin's doing
SLOW: Final = 0.05
LATE: Final = "enforcer_timeout"

Blocking = list[tuple[int, BoundCheck, Check[Any]]]
Stores = Callable[[BoundCheck, Principal], Store]


@dataclass(frozen=True, slots=True)
class _Later:
    """An answer that is to be awaited, and for how many seconds more its verdict counts."""

    number: int
    bound: BoundCheck
    answer: Any
    left: float


class Fault(Verdict):
    """The refusal that stands for a verdict which a check did not give."""

    __slots__ = ()


class Runner:
    """Builds each check's input and runs checks; one a process is enough. `stores` gives a check its store.

    `event` records that a plugin's enforcer fails time after time, and that it answers again.
    """

    def __init__(self, clock: Clock, stores: Stores, event: Event | None = None) -> None:
        self._clock = clock
        self._stores = stores
        self._workers = Workers()
        self._failing = Failing(event)
        self._reported: set[str] = set()

    def close(self) -> None:
        """Lets go of the worker threads without waiting for what still runs in them."""
        self._workers.close()

    def judge_now(self, match: Match, request: RequestContext) -> Verdict:
        """The verdict of a check whose answer depends on the rule and the component alone."""
        check = self._input(match.check, request, None)
        started = time.perf_counter()
        answer = _call(match.check, check)
        if inspect.isawaitable(answer):
            _drop(answer)
            answer = _contract(match.check, "answers a constant check later")
        verdict = _in_time(match.check, _checked(match.check, answer), time.perf_counter() - started)
        return self._noted(match.check, verdict)

    async def judge(
        self, matches: Sequence[Match], request: RequestContext, result: Result | None = None
    ) -> list[Verdict]:
        """One verdict a match, in their order. Inline checks run here; the others are waited for together."""
        judged: list[Verdict | None] = [None] * len(matches)
        later: list[_Later] = []
        blocking: Blocking = []
        for number, match in enumerate(matches):
            bound = match.check
            check = self._input(bound, request, result)
            if bound.enforcer.blocking:
                blocking.append((number, bound, check))
                continue
            started = time.perf_counter()
            answer = _call(bound, check)
            spent = time.perf_counter() - started
            self._report_slow(bound, spent)
            if not isinstance(answer, Verdict) and inspect.isawaitable(answer):
                later.append(_Later(number, bound, answer, bound.enforcer.timeout - spent))
            else:
                judged[number] = _in_time(bound, _checked(bound, answer), spent)
        if later or blocking:
            for number, verdict in await self._wait(later, blocking):
                judged[number] = verdict
        return [
            self._noted(match.check, verdict if verdict is not None else _timeout(match.check))
            for match, verdict in zip(matches, judged, strict=True)
        ]

    def _noted(self, bound: BoundCheck, verdict: Verdict) -> Verdict:
        """The verdict, counted as an answer of its plugin or as one more failure."""
        if type(verdict) is Fault:
            self._failing.failed(bound)
        elif verdict.code not in _ELSEWHERE:
            self._failing.answered(bound)
        return verdict

    def _input(self, bound: BoundCheck, request: RequestContext, result: Result | None) -> Check[Any]:
        return Check(
            request=request,
            rule=bound.view,
            params=bound.params,
            action=bound.judged,
            clock=self._clock,
            store=self._stores(bound, request.principal),
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

    async def _wait(self, later: Sequence[_Later], blocking: Blocking) -> list[tuple[int, Verdict]]:
        """Waits for async and blocking checks together, as long as any of them may take; each has its own deadline."""
        times = [each.left for each in later] + [bound.enforcer.timeout for _, bound, _ in blocking]
        began = time.perf_counter()
        verdicts: list[tuple[int, Verdict]] = []
        tasks = [asyncio.ensure_future(_settle(each, began, verdicts)) for each in later]
        hops = [_Hop(checks, began) for checks in _by_plugin(blocking)]
        tasks += [asyncio.ensure_future(self._in_thread(hop, verdicts)) for hop in hops]
        try:
            _, pending = await asyncio.wait(tasks, timeout=max(*times, 0.0))
        except asyncio.CancelledError:
            _abandon(tasks)
            raise
        _abandon(pending)
        return [*verdicts, *(refused for hop in hops for refused in hop.unheard())]

    async def _in_thread(self, hop: _Hop, verdicts: list[tuple[int, Verdict]]) -> None:
        """Runs a plugin's blocking checks of a request in one hop; what they leave to await is awaited here."""
        context = contextvars.copy_context()
        future = self._workers.submit(hop.plugin, lambda: context.run(hop.run))
        if future is None:
            verdicts.extend((number, _busy(bound)) for number, bound, _ in hop.checks)
            return
        for each in await asyncio.wrap_future(future):
            await _settle(each, hop.began, verdicts)


class _Hop:
    """The blocking checks of one plugin in one request: they run one after the other, in one worker thread."""

    def __init__(self, checks: Blocking, began: float) -> None:
        self.checks = checks
        self.began = began
        self.plugin = checks[0][1].plugin
        self._begun = 0
        self._late = False

    def run(self) -> list[_Later]:
        """What each of them answers; after the deadline none begins any more."""
        answers: list[_Later] = []
        for number, bound, check in self.checks:
            if self._late:
                break
            self._begun += 1
            answers.append(_Later(number, bound, _call(bound, check), bound.enforcer.timeout))
        return answers

    def unheard(self) -> list[tuple[int, Verdict]]:
        """At the deadline: refusals for those that had no turn. Another held the thread, so it is not their fault."""
        self._late = True
        return [(number, _busy(bound)) for number, bound, _ in self.checks[self._begun :]]


def _by_plugin(blocking: Blocking) -> list[Blocking]:
    groups: dict[str, Blocking] = {}
    for check in blocking:
        groups.setdefault(check[1].plugin, []).append(check)
    return list(groups.values())


def _call(bound: BoundCheck, check: Check[Any]) -> Any:
    """What the check answers: a verdict, an awaitable or anything else; never an exception but KeyboardInterrupt."""
    try:
        return bound.enforcer.check(check)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _failed(bound, error)


async def _settle(later: _Later, began: float, verdicts: list[tuple[int, Verdict]]) -> None:
    """Waits for an answer that was begun at `began`. One that comes late is none, though nothing cut it off in time: it
    swallowed the cancellation, or the event loop stood still."""
    verdict = await _awaited(later.bound, later.answer)
    late = time.perf_counter() - began > later.left
    verdicts.append((later.number, _timeout(later.bound) if late else verdict))


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


def _in_time(bound: BoundCheck, verdict: Verdict, spent: float) -> Verdict:
    """The verdict, if it came within the enforcer's time; else the refusal that stands for it."""
    return verdict if spent <= bound.enforcer.timeout else _timeout(bound)


def _checked(bound: BoundCheck, answer: Any) -> Verdict:
    if not isinstance(answer, Verdict):
        return _contract(bound, f"returned {type(answer).__name__}, not a Verdict")
    if answer is ALLOW or type(answer) is Fault:
        return answer
    if answer.effect is Effect.ASK and answer.question is None:
        return _contract(bound, "asks without a question")
    return answer if _is_sound(answer) else _contract(bound, "returned a Verdict of the wrong parts")


def _is_sound(verdict: Verdict) -> bool:
    """Whether every part is of its kind. An effect that is none of the three would forbid nothing, and a path that is
    given as a text, not in a tuple, would be read as one path a letter."""
    retry = verdict.retry_after
    return (
        type(verdict.effect) is Effect
        and _are((verdict.code, verdict.reason, verdict.detail), str)
        and _are(verdict.edits, Edit)
        and all(_are(edit.withhold, str) and _are(edit.keep or (), str) for edit in verdict.edits)
        and _are(verdict.charges, Charge)
        and _are(verdict.caveats, str)
        and (verdict.question is None or isinstance(verdict.question, Question))
        and (retry is None or isinstance(retry, int | float))
    )


def _are(parts: object, kind: type) -> bool:
    return isinstance(parts, tuple) and (not parts or all(isinstance(part, kind) for part in parts))


def _failed(bound: BoundCheck, error: BaseException) -> Verdict:
    """A refusal; the exception's text may hold a protected value, so only its type is kept (law L7)."""
    logger.error("enforcer %s raised %s", bound.enforcer.name, type(error).__name__)
    code = getattr(error, "code", None) if isinstance(error, _OWN) else None
    kind = Verdict if code is not None else Fault
    return kind.deny(
        code or "enforcer_error",
        "The policy could not be evaluated.",
        detail=f"{bound.enforcer.name} raised {type(error).__name__}",
    )


def _contract(bound: BoundCheck, what: str) -> Verdict:
    logger.error("enforcer %s %s", bound.enforcer.name, what)
    return Fault.deny("enforcer_contract", "The policy could not be evaluated.", detail=f"{bound.enforcer.name} {what}")


def is_late(verdict: Verdict) -> bool:
    """Whether it stands for a verdict that did not come in time."""
    return type(verdict) is Fault and verdict.code == LATE


def _timeout(bound: BoundCheck) -> Verdict:
    logger.error("enforcer %s outlived its deadline", bound.enforcer.name)
    return Fault.deny(LATE, "The policy could not be evaluated in time.", detail=f"{bound.enforcer.name} timed out")


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
