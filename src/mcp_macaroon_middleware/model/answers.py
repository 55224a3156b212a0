"""What checks, engine and people answer: verdicts, edits, charges, challenges, refusals. An edit can only withhold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .words import Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What a check takes out of a result. An edit can only withhold; edits are united and applied once.

    `withhold` are field paths whose values leave the result; `keep`, where given, are the only field paths that stay;
    `everything` withholds the whole result.
    """

    withhold: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    everything: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A limit to look at and, when the component runs, to charge: at most `limit` in any `window` seconds.

    `key` parts are plain texts, kept apart by the store. `effect` is what happens when it does not fit: DENY or ASK.
    `per_principal` counts for each principal apart, and lies where all of a principal's records lie. `refills` makes it
    a bucket that holds `limit` and is refilled evenly in `window` seconds.
    """

    key: tuple[str, ...]
    amount: int = 1
    limit: int
    window: float
    per_principal: bool = False
    refills: bool = False
    effect: Effect = Effect.DENY
    code: str = "rate_limited"
    reason: str = "Too many calls."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked: one sentence, and the fields that an answer would release (after the call)."""

    text: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One check's answer. `code` is stable, `reason` may be shown to the caller, `detail` goes to the audit alone.

    `edits` withhold parts of a result (after the call); for an ASK they are what is withheld unless a person agrees.
    `charges` are limits to be charged if the component runs. `caveats` are further rules in string form that narrow
    the rest of this request.
    """

    effect: Effect
    code: str = ""
    reason: str = ""
    detail: str = ""
    edits: tuple[Edit, ...] = ()
    charges: tuple[Charge, ...] = ()
    question: Question | None = None
    retry_after: float | None = None
    caveats: tuple[str, ...] = ()

    @classmethod
    def allow(
        cls,
        *,
        edits: Sequence[Edit] = (),
        charges: Sequence[Charge] = (),
        caveats: Sequence[str] = (),
        detail: str = "",
    ) -> Verdict:
        """The check passes; after the call it may still withhold parts of the result by `edits`."""
        if not (edits or charges or caveats or detail):
            return ALLOW
        return cls(
            effect=Effect.ALLOW, edits=tuple(edits), charges=tuple(charges), caveats=tuple(caveats), detail=detail
        )

    @classmethod
    def deny(cls, code: str, reason: str = "", *, detail: str = "", retry_after: float | None = None) -> Verdict:
        """The check refuses. `retry_after` is in seconds."""
        return cls(effect=Effect.DENY, code=code, reason=reason, detail=detail, retry_after=retry_after)

    @classmethod
    def ask(
        cls, code: str, text: str, *, fields: Sequence[str] = (), edits: Sequence[Edit] = (), detail: str = ""
    ) -> Verdict:
        """A person is asked `text`; until somebody agrees the call is refused, or `edits` are withheld."""
        return cls(
            effect=Effect.ASK,
            code=code,
            reason=text,
            detail=detail,
            edits=tuple(edits),
            question=Question(text=text, fields=tuple(fields)),
        )


ALLOW: Final = Verdict(effect=Effect.ALLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is refused, as far as the caller may know. `hidden`: answer as if the component did not exist."""

    code: str
    reason: str
    policy: str | None = None
    retry_after: float | None = None
    approval: str | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """All edits of one result, united: what leaves it. Applied once, to every representation."""

    withhold: tuple[str, ...] = ()
    keep: tuple[tuple[str, ...], ...] = ()
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is withheld."""
        return not (self.withhold or self.keep or self.everything)

    @classmethod
    def united(cls, edits: Sequence[Edit]) -> Redaction:
        """The union of what `edits` withhold: a path stays only if every edit leaves it."""
        return cls(
            withhold=tuple(dict.fromkeys(path for edit in edits for path in edit.withhold)),
            keep=tuple(dict.fromkeys(edit.keep for edit in edits if edit.keep is not None)),
            everything=any(edit.everything for edit in edits),
        )

    def __or__(self, other: Redaction) -> Redaction:
        return Redaction(
            withhold=tuple(dict.fromkeys(self.withhold + other.withhold)),
            keep=tuple(dict.fromkeys(self.keep + other.keep)),
            everything=self.everything or other.everything,
        )
