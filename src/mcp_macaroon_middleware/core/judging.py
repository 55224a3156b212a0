"""Judges the rules that speak of a request and counts what they come to; constant verdicts are reached once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..model import RequestContext, Result, Verdict
from ..plugin.contract import Clock
from .checks import Runner, is_late
from .crowd import Crowd
from .decisions import NOTHING_AFTER, After
from .plan import NO_MATCHES, Match, Matches, Plan, still_holds
from .principals import applies
from .readings import read_twice
from .tally import Tally

Applying = Sequence[tuple[Match, bool]]


class Judge:
    """Picks the matches that apply, has them judged, and adds their verdicts to a tally."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self._runner = runner
        self._clock = clock

    def summary(self, matches: Matches, request: RequestContext) -> Tally:
        """What the constant, unconditional checks come to. Shared: copy it before adding to it."""
        if matches.summary is not None:
            return matches.summary
        tally = Tally()
        verdicts = [self._runner.judge_now(match, request) for match in matches.folded]
        for match, verdict in zip(matches.folded, verdicts, strict=True):
            tally.add(match.check, verdict, grants=match.exposed)
        if not any(is_late(verdict) for verdict in verdicts):  # the next one may be in time
            matches.summary = tally
        return tally

    def applying(self, plan: Plan, matches: Iterable[Match], request: RequestContext) -> list[tuple[Match, bool]]:
        """The matches that apply, each with whether that is sure. A doubt counts against the caller.

        A rule ends at its `time<`; `for` and `except` limit it to principals. Where it cannot be told whether a rule
        speaks of this principal, one that only grants does not apply and any other does.
        """
        roles = plan.settings.roles
        chosen: list[tuple[Match, bool]] = []
        for match in matches.concerning(request, roles) if type(matches) is Crowd else matches:
            check = match.check
            if not check.conditional:
                chosen.append((match, True))
            elif still_holds(check.rule, self._clock.now()):
                spoken = applies(check.rule, request, roles, exact=match.exact)
                if spoken or (spoken is None and not check.grants_only):
                    chosen.append((match, spoken is True))
        return chosen

    async def judge(
        self, applying: Applying, request: RequestContext, tally: Tally, result: Result | None = None
    ) -> None:
        """Adds one verdict for each of `applying`."""
        waiting: list[tuple[Match, bool]] = []
        for match, sure in applying:
            if match.check.constant:
                verdict = match.verdict or self._constant(match, request)
                tally.add(match.check, verdict, grants=match.exposed and sure)
            else:
                waiting.append((match, sure))
        if waiting:
            matches = [match for match, _ in waiting]
            if request.facts is not None:
                verdicts = await read_twice(self._runner, matches, request, result)
            else:
                verdicts = await self._runner.judge(matches, request, result)
            for (match, sure), verdict in zip(waiting, verdicts, strict=True):
                tally.add(match.check, verdict, grants=match.exposed and sure)

    def _constant(self, match: Match, request: RequestContext) -> Verdict:
        verdict = self._runner.judge_now(match, request)
        if not is_late(verdict):
            match.verdict = verdict
        return verdict

    def after(self, plan: Plan, matches: Matches, request: RequestContext) -> After:
        """The after-checks on a call, as far as they can be settled before it."""
        if matches is NO_MATCHES:
            return NOTHING_AFTER
        settled = self.summary(matches, request) if matches.folded else None
        waiting = matches.open
        return After(settled, tuple(self.applying(plan, waiting, request)) if waiting else ())
