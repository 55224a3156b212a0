"""A question that rules raise about one call, with its terms; and how one request can have it answered. Plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from ..model import EMPTY, ONCE, PERIOD, Answer, Caller, Component, Edit, Phase, Reply, Verdict
from .binding import BoundCheck, PlanSettings

WHOLE: Final = ("",)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ask:
    """One rule's question. `rule` is the digest that a grant for it must bear; `fields` are what an answer releases.

    `fields` is `("",)` for a question that releases no field of a result. `approver` is None for a token's rule: its
    holder's own client may not answer it. `expiry` is in seconds. `same_values`: the rule looks at arguments, so that
    an approval for a period holds for the very same ones alone. `four_eyes`: its own caller may not answer it. A
    question about a limit is about that one limit of its rule, and so is what an answer allows.
    """

    rule: str
    text: str
    code: str
    fields: tuple[str, ...]
    approver: str | None
    scopes: tuple[str, ...]
    expiry: int
    secret: tuple[str, ...]
    same_values: bool
    four_eyes: bool
    source: str

    @classmethod
    def of(cls, check: BoundCheck, verdict: Verdict, settings: PlanSettings, limit: Sequence[str] = ()) -> Ask:
        """The question of a verdict that asks, under the file's own terms where the rule gives none.

        `limit` is the key of the limit that it is about.
        """
        rule, question = check.rule, verdict.question
        approver = None if check.from_token else rule.approver or settings.approvals.default
        scopes = rule.scopes or settings.approvals.scopes
        facts = [check.view.digest, check.plugin, approver, list(scopes), check.from_token, *limit]
        return cls(
            rule=hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32],
            text=question.text if question is not None else verdict.reason,
            code=verdict.code,
            fields=_released(verdict) if rule.phase is Phase.AFTER else WHOLE,
            approver=approver,
            scopes=scopes,
            expiry=rule.expiry or settings.elicit_expiry,
            secret=rule.secret,
            same_values=check.reads_arguments,
            four_eyes=rule.four_eyes,
            source=check.view.text,
        )

    def is_idle(self, edits: Sequence[Edit]) -> bool:
        """Whether an answer would change nothing: what it releases is withheld by these edits all the same."""
        gone = {path for edit in edits for path in edit.withhold}
        return any(edit.everything for edit in edits) or all(part in gone for part in self.fields)


def _released(verdict: Verdict) -> tuple[str, ...]:
    """What an answer would release: the fields that the question names, else everything that its edits withhold."""
    named = verdict.question.fields if verdict.question is not None else ()
    if named:
        return tuple(dict.fromkeys(named))
    parts = [path for edit in verdict.edits for path in edit.withhold]
    parts += [json.dumps(list(edit.keep)) for edit in verdict.edits if edit.keep is not None]
    return tuple(dict.fromkeys(parts)) or WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The very call that approvals are about: whose, of what, with which arguments. All but `component` are digests."""

    caller: str
    component: str
    definition: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How questions about one request can be answered. Without one, nobody is asked.

    `person`: the caller is one, or acts for one. `forms`: his client can show a form. `replies` are what came back for
    challenges, by their ids: a client's `Reply`, or the `Answer` of an approver that asks out of band. `leg` names a
    leg that this request goes on with and that asked nothing of its own. `until`: no approval lasts longer, where the
    file says so. `mask` replaces arguments that a person must not be shown. `host`: the program asks its people itself
    and comes back with the same call. `server` is its name, for people, where the file gives no audience.
    """

    person: bool = True
    forms: bool = False
    replies: Mapping[str, Reply | Answer] = field(default_factory=lambda: EMPTY, repr=False)
    leg: str | None = None
    until: datetime | None = None
    mask: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    host: bool = False
    server: str = ""

    def answered(self, replies: Mapping[str, Reply | Answer]) -> Asking:
        """The same, with these replies and no others."""
        return replace(self, replies=replies, leg=None)


def caller_of(principal: Any, client: str | None, lineage: Sequence[str]) -> Caller:
    """Whose approvals they are: the principal's through one client, or through one line of tokens."""
    return Caller(principal=principal, client=None if lineage else client, lineage=tuple(lineage))


def offered(asks: Sequence[Ask]) -> tuple[str, ...]:
    """The scopes that one choice for all of `asks` may have. `once` is the narrowest, so it is there if in doubt."""
    period = all(PERIOD in ask.scopes for ask in asks)
    once = any(ONCE in ask.scopes for ask in asks) or not period
    return (*((ONCE,) if once else ()), *((PERIOD,) if period else ()))


def component_key(component: Component) -> str:
    """The component that approvals are about; for a resource the very URI."""
    return json.dumps([component.key, component.version, component.uri], ensure_ascii=True)
