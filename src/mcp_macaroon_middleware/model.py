"""The nouns of the system as frozen data: who asks, for what, by which rule, with what answer. It decides nothing.

Data here is immutable on purpose: a check, a plugin or an adapter can look at it, pass it on and keep it, and never
change what another part sees (laws L1 and L2).
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final

JSON = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Phase(StrEnum):
    """When a rule is judged: before the component runs, or after it."""

    BEFORE = "bf"
    AFTER = "af"


class Action(StrEnum):
    """What a rule says to do; each enforcer declares which of these it takes."""

    ALLOW = "allow"
    DENY = "deny"
    ELICIT = "elicit"
    ONLY = "only"


class Kind(StrEnum):
    """What a component is."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    METHOD = "method"


class Effect(IntEnum):
    """What a verdict does; verdicts combine by `min`: a deny beats an ask, an ask beats an allow."""

    DENY = 0
    ASK = 1
    ALLOW = 2


# --- who ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: a tagged tuple. Two principals are the same only if all four parts are.

    `kind` is `user`, `client` (a machine without a user), `local` (this process's own user) or `anonymous`;
    `namespace` is the issuer, or the id of the identity source where there is no issuer.
    """

    kind: str
    namespace: str
    subject: str
    tenant: str | None = None

    @property
    def key(self) -> str:
        """An unambiguous text of all four parts, for store keys and digests."""
        return json.dumps([self.kind, self.namespace, self.subject, self.tenant], ensure_ascii=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A principal through one client program or one line of tokens; approvals belong to a caller.

    `lineage` is the token id followed by its branches, empty without a token.
    """

    principal: Principal
    client: str | None = None
    lineage: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """An unambiguous text of all parts, for store keys and digests."""
        return json.dumps([self.principal.key, self.client, list(self.lineage)], ensure_ascii=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Limits a rule to principals (`for`, `except`): all keys given must match, a list means any of its values."""

    subject: tuple[str, ...] = ()
    role: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    claim: tuple[tuple[str, tuple[str, ...]], ...] = ()


# --- what -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """The component that will run, after renames, mounts, versions and URI normalisation.

    `name` is the public name: a tool's or prompt's name, a resource's URI or URI template, or a method's name. `names`
    is every name in the chain from the public one to the leaf's own, `child/name` forms included; a restricting rule
    matches any of them, a granting one only `exposed`. For a templated read `uri` is the concrete URI, normalised; it
    counts as a public name too. `digest` covers the definition (description, schemas, code where it can be told).
    """

    kind: Kind
    name: str
    names: tuple[str, ...] = ()
    server: str = ""
    version: str | None = None
    digest: str = ""
    uri: str | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.server, self.version, self.uri))

    @property
    def leaf(self) -> str:
        """The name that the component bears where it is defined."""
        return self.names[-1] if self.names else self.name

    @property
    def key(self) -> str:
        """An unambiguous text of what runs, the same for all of its public names; no caller can choose it."""
        return json.dumps([self.kind, self.server, self.leaf], ensure_ascii=True)


def frozen(value: Any) -> Any:
    """The same plain data, immutable: mappings read-only, lists as tuples. Work is linear in the size."""
    if isinstance(value, dict | MappingProxyType):
        return MappingProxyType({k: frozen(v) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(v) for v in value)
    return value


def thawed(value: Any) -> Any:
    """The same plain data as ordinary dicts and lists, for code that serialises or changes a copy."""
    if isinstance(value, Mapping):
        return {k: thawed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [thawed(v) for v in value]
    return value


@dataclass(frozen=True, slots=True)
class Message:
    """The request as the original's enforcers read it: `context.message.name`, `context.message.arguments`."""

    name: str
    arguments: Mapping[str, Any]


class RequestContext:
    """One request as every check sees it: who, what, with which arguments, when, from where. Immutable.

    `at` is an aware datetime in UTC. `arguments` are in the leaf component's own names and values (after validation);
    they are empty while argument-free rules are judged. `nested` says that a component called this one. What else the
    host knows can be given as keyword arguments and is read as attributes (`context.ip_address`), or in `extras`.

    The `repr` names the request, principal and component, and never shows arguments, claims or extras (law L7).
    """

    __slots__ = (
        "arguments",
        "at",
        "claims",
        "client",
        "client_address",
        "component",
        "extras",
        "id",
        "nested",
        "principal",
    )

    id: str
    principal: Principal
    client: str | None
    claims: Mapping[str, Any]
    component: Component
    arguments: Mapping[str, Any]
    at: datetime
    client_address: str | None
    nested: bool
    extras: Mapping[str, Any]

    def __init__(
        self,
        user_id: str | None = None,
        *,
        principal: Principal | None = None,
        component: Component | None = None,
        arguments: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        client: str | None = None,
        client_address: str | None = None,
        at: datetime | None = None,
        nested: bool = False,
        id: str | None = None,
        **extras: Any,
    ) -> None:
        if principal is None:
            principal = Principal(kind="user", namespace="", subject=user_id) if user_id else NOBODY
        put = object.__setattr__
        put(self, "id", id or request_ids.next())
        put(self, "principal", principal)
        put(self, "client", client)
        put(self, "claims", frozen(claims) if claims else EMPTY)
        put(self, "component", component or NO_COMPONENT)
        put(self, "arguments", frozen(arguments) if arguments else EMPTY)
        put(self, "at", at or datetime.now(UTC))
        put(self, "client_address", client_address)
        put(self, "nested", nested)
        put(self, "extras", MappingProxyType(extras) if extras else EMPTY)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a RequestContext cannot be changed; use replace({name}=…)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a RequestContext cannot be changed")

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "extras")[name]
        except (AttributeError, KeyError):
            raise AttributeError(f"this request has no {name!r}") from None

    def __repr__(self) -> str:
        return f"RequestContext(id={self.id!r}, principal={self.principal!r}, component={self.component.name!r})"

    @property
    def user_id(self) -> str:
        """The principal's subject, as the original called it."""
        return self.principal.subject

    @property
    def message(self) -> Message:
        """The component's public name and the arguments, as the original's enforcers read them."""
        return Message(self.component.name, self.arguments)

    def replace(self, **changes: Any) -> RequestContext:
        """A copy with other values for some fields; the id stays."""
        new = object.__new__(RequestContext)
        for name in RequestContext.__slots__:
            value = changes.pop(name) if name in changes else getattr(self, name)
            object.__setattr__(new, name, frozen(value) if name in ("arguments", "claims") else value)
        if changes:
            raise TypeError(f"RequestContext has no field {next(iter(changes))!r}")
        return new


class _RequestIds:
    """Ids that no two requests of any processes share: a random part a process (and fork), and a count."""

    __slots__ = ("_count", "_part")

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begins anew with another random part."""
        self._part = secrets.token_hex(8)
        self._count = itertools.count(1)

    def next(self) -> str:
        """An id that was never given out."""
        return f"{self._part}{next(self._count):06x}"


request_ids: Final = _RequestIds()
NOBODY: Final = Principal(kind="anonymous", namespace="", subject="")
NO_COMPONENT: Final = Component(kind=Kind.METHOD, name="")


class Result:
    """What a component returned, as plain frozen data, built when a check first looks at it.

    `documents` are the JSON documents in it (the structured content without its wrapper first, then each text that is
    JSON), `texts` the plain texts. A result that cannot be turned into plain data raises when looked at, which
    withholds it.
    """

    __slots__ = ("_build", "_built", "is_error")

    def __init__(
        self, build: Callable[[], tuple[tuple[JSON, ...], tuple[str, ...]]], *, is_error: bool = False
    ) -> None:
        self._build = build
        self._built: tuple[tuple[JSON, ...], tuple[str, ...]] | None = None
        self.is_error = is_error

    @classmethod
    def of(cls, value: JSON) -> Result:
        """A result that is one JSON document."""
        return cls(lambda: ((value,), ()))

    def _parts(self) -> tuple[tuple[JSON, ...], tuple[str, ...]]:
        if self._built is None:
            documents, texts = self._build()
            self._built = (tuple(frozen(d) for d in documents), tuple(texts))
        return self._built

    @property
    def documents(self) -> tuple[JSON, ...]:
        """Every JSON document in the result."""
        return self._parts()[0]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text in the result that is not JSON."""
        return self._parts()[1]

    @property
    def value(self) -> JSON:
        """The main document, or None where there is none."""
        documents = self.documents
        return documents[0] if documents else None

    def __repr__(self) -> str:
        return "Result(…)"


# --- rules ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which components a rule speaks of. `kind` None is every kind, which only a bare `*` says.

    `pattern` is the unescaped text; `*` in it crosses everything and nothing else is special, unless `literal`.
    """

    kind: Kind | None
    pattern: str

    @property
    def is_glob(self) -> bool:
        """Whether the pattern can match more than one name."""
        return "*" in self.pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rule was written; line and column count from 1, 0 where unknown."""

    file: str = ""
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One parsed rule. `text` is its canonical string form where it has one, else a stable one-line form.

    `params` are the positional texts, or, in the long form, a mapping or a sequence of plain values. Only operator
    rules may carry `for_`, `except_`, `approver`, `scopes`, `expiry`, `secret` and `dynamic`. `expires` (`time<…`) is
    an aware UTC datetime: at that instant the rule ends. `raw_params` is the remainder as it was written, for params
    that are declared `rest`.
    """

    phase: Phase
    target: Target
    policy: str
    action: Action
    params: tuple[str, ...] | Mapping[str, Any] | Sequence[Any] = ()
    raw_params: str | None = None
    expires: datetime | None = None
    for_: Selector | None = None
    except_: Selector | None = None
    approver: str | None = None
    scopes: tuple[str, ...] = ()
    expiry: int | None = None
    secret: tuple[str, ...] = ()
    dynamic: bool = False
    text: str = ""
    place: Place = field(default_factory=Place)


class ExecutionPhase(StrEnum):
    """`Phase` under the name that the original's `Caveat` uses."""

    BEFORE = "bf"
    AFTER = "af"


ActionType = Action


@dataclass(frozen=True, slots=True)
class Caveat:
    """A rule as the original's enforcers see it, with its seven documented fields."""

    raw: str
    execution_phase: ExecutionPhase
    tool_name: str
    policy_name: str
    action: ActionType
    params: tuple[str, ...]
    expiry: datetime | None = None


# --- answers --------------------------------------------------------------------------------------------------------


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
    """

    key: tuple[str, ...]
    amount: int = 1
    limit: int
    window: float
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
class Challenge:
    """A question that must be answered before a call may go on: one for each approver."""

    id: str
    approver: str
    phase: Phase
    questions: tuple[Question, ...]


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
