"""Puts questions into challenges: one for each approver, with what is asked, what is offered and for how long.

It asks nobody and keeps nothing: a challenge is prepared on its decision, and posed by whoever can carry it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from ..model import DENY, ONCE, PERIOD, Challenge, Choice, Phase, Question, Refusal
from . import wording
from .approvers import Approvers, OpenApprover
from .asks import Ask, Asking, Call, offered
from .binding import PlanSettings
from .decisions import Decision, plain_refusal
from .legs import Asked, Leg

NO_FORMS: Final = "This needs a person's approval, and this client cannot show the question (it lacks elicitation)."


def prepare(decision: Decision, phase: Phase, asks: Sequence[Ask], approvers: Approvers, call: Call) -> Refusal | None:
    """Prepares one challenge an approver, those that ask out of band first; or why somebody cannot be asked."""
    asking, settings = decision.asking, decision.plan.settings
    if asking is None or not asking.person:
        return plain_refusal("approval_unavailable")
    groups: dict[str, tuple[OpenApprover, list[Ask]]] = {}
    for ask in asks:
        found = approvers.chosen(ask, settings, asking)
        if found is None:
            return _nobody(ask, settings, asking, approvers)
        groups.setdefault(found.name, (found, []))[1].append(ask)
    prepared = []
    for found, some in sorted(groups.values(), key=lambda group: group[0].in_band):
        challenge, leg = _worded(decision, phase, found, some, call)
        if len(challenge.message) > found.kind.most:
            return plain_refusal("approval_too_long", reason=_too_long(challenge, leg.call))
        prepared.append((challenge, leg))
    decision.prepared = {challenge.id: leg for challenge, leg in prepared}
    decision.challenges = tuple(challenge for challenge, _ in prepared)
    return None


def _nobody(ask: Ask, settings: PlanSettings, asking: Asking, approvers: Approvers) -> Refusal:
    """Why a question cannot be put to anybody, as far as the client can do something about it."""
    name = ask.approver or settings.approvals.default
    wanted = approvers.get(name)
    no_form = wanted is not None and wanted.in_band and not asking.forms and ask.approver is not None
    return replace(plain_refusal("approval_unavailable", reason=NO_FORMS if no_form else ""), approval=name)


def _worded(
    decision: Decision, phase: Phase, found: OpenApprover, asks: Sequence[Ask], call: Call
) -> tuple[Challenge, Leg]:
    request, settings = decision.request, decision.plan.settings
    expires = request.at + timedelta(seconds=settings.approvals.timeout)
    questions = tuple(Question(text=wording.plain(ask.text), fields=ask.fields) for ask in asks)
    seconds, choices = _offers(decision, phase, asks)
    arguments = wording.shown(_masked(decision, asks))
    server = settings.audience or (decision.asking.server if decision.asking is not None else "")
    challenge = Challenge(
        id=secrets.token_hex(16),
        approver=found.name,
        phase=phase,
        questions=questions,
        choices=choices,
        server=server,
        principal=request.principal,
        component=request.component,
        arguments=arguments,
        message=wording.message(
            phase=phase,
            server=server,
            principal=request.principal,
            component=request.component,
            arguments=arguments,
            questions=questions,
            expires=expires,
        ),
        expires=expires,
    )
    asked = tuple(
        Asked(
            rule=a.rule,
            fields=a.fields,
            text=q.text,
            same_values=a.same_values,
            four_eyes=a.four_eyes,
        )
        for a, q in zip(asks, questions, strict=True)
    )
    leg = Leg(
        id=challenge.id,
        call=call,
        phase=phase,
        approver=found.name,
        asked=asked,
        choices=choices,
        seconds=seconds,
    )
    return challenge, leg


def _offers(
    decision: Decision, phase: Phase, asks: Sequence[Ask]
) -> tuple[tuple[float, ...], tuple[tuple[Choice, ...], ...]]:
    """For each choice to be made: how long a period lasts, and what is offered, the safe one first."""
    request, until = decision.request, decision.asking.until if decision.asking else None
    groups = [[ask] for ask in asks] if phase is Phase.AFTER else [list(asks)]
    seconds, choices = [], []
    for group in groups:
        lasts = float(min(ask.expiry for ask in group))
        if until is not None and decision.plan.settings.approvals.end_with_token:
            lasts = min(lasts, float(int((until - request.at).total_seconds())))
        same = any(ask.same_values for ask in group)
        scopes = offered(group)
        offers = [Choice(name=DENY, title=wording.deny_title(phase))]
        if ONCE in scopes:
            offers.append(Choice(name=ONCE, title=wording.once_title(phase)))
        if PERIOD in scopes and lasts >= 1:
            title = wording.period_title(phase, request.component, lasts, same_values=same)
            offers.append(Choice(name=PERIOD, title=title))
        seconds.append(max(lasts, 1.0))
        choices.append(tuple(offers))
    return tuple(seconds), tuple(choices)


def _masked(decision: Decision, asks: Sequence[Ask]) -> Mapping[str, Any]:
    """The arguments to be shown; secret ones by their length alone."""
    request = decision.request
    arguments: Mapping[str, Any] = decision.raw if decision.deferred else request.arguments
    if decision.asking is not None and decision.asking.mask is not None:
        arguments = decision.asking.mask(arguments)
    for path in {path for ask in asks for path in ask.secret}:
        arguments = wording.hidden(arguments, path.split("."))
    return arguments


def _too_long(challenge: Challenge, call: Call) -> str:
    size = f"{len(challenge.message):,} characters, digest {call.arguments[:12]}"
    return f"This needs a person's approval, and its arguments are too long to be shown whole ({size})."
