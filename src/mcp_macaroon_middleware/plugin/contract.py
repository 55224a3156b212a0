"""What plugins implement and are handed: `Check`, `Store`, `AuditSink`, `Approver`, key sources. It runs no plugin.

A check sees the request, its own rule and its own part of the store. It never sees a token, a caveat or another
check's verdict, so it cannot depend on them (law L1).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

from ..model import (
    Action,
    Answer,
    Assurance,
    Challenge,
    Choice,
    Edit,
    Effect,
    Phase,
    Published,
    Question,
    Reply,
    RequestContext,
    Result,
    Target,
    Verdict,
)


class Params(BaseModel):
    """The base of an enforcer's params: a pydantic model, strict about unknown names, immutable.

    Positional params of the string form fill the fields in their order, as texts; a last field of type
    `tuple[T, ...]` takes the rest; a field named in `rest` takes the remainder of the rule uncut (but for a final
    `:time<…`). The long form may give the same by name; fields in `named` can be given by name only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    rest: ClassVar[str | None] = None
    named: ClassVar[frozenset[str]] = frozenset()


class NoParams(Params):
    """The params of an enforcer that takes none."""


class Settings(BaseModel):
    """The base of a plugin's settings: its own section under `plugins:` in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored value with the version that `swap` compares."""

    value: bytes
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """One line of `Store.add`: add `amount` to `key` unless its sum over the last `window` seconds would pass `limit`.

    With `amount` 0 nothing is charged and the answer says how full the window is. `refills`: `key` is a bucket instead,
    which holds `limit` and is refilled evenly, all of it in `window` seconds; windows and buckets share no keys.
    `lasts`: so many seconds after its last charge nobody will ask for the counter any more, and it is gone, whatever it
    holds; None where that is not known.
    """

    key: str
    amount: int
    limit: int
    window: float
    refills: bool = False
    lasts: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The answer of `Store.add`: whether every line fitted (then all were charged, else none was).

    `used` are the sums per line after the operation; `retry_after` is the number of seconds until every line could
    fit, None if one never can (its amount is above its limit); 0 if they fitted.
    """

    ok: bool
    used: tuple[int, ...]
    retry_after: float | None = 0.0


@runtime_checkable
class Store(Protocol):
    """Six atomic primitives on text keys and byte values, in the store's own time; every value has a ttl in seconds.

    Every method raises `StoreUnavailable` when it cannot answer. No method may answer from a guess: a lost reply of
    `take`, `swap` or `add` is an error, never a success. Source of the set: the project's DESIGN, section 7.
    """

    durable: bool
    shared: bool

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """The live entries of `keys`, in their order; those of one part (see `StoreType`) read at one instant."""

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        """Sets `key`, whatever was there; gone after `ttl` seconds."""

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        """Sets `key` only if its version is still `version` (None: only if it is absent). True if it was set."""

    async def take(self, key: str) -> bytes | None:
        """Removes `key` and returns its value; of any number of takers at most one gets it."""

    async def add(self, amounts: Sequence[Amount]) -> Added:
        """Charges every line or none. In no window of any line does the sum pass its limit."""

    async def scan(self, prefix: str, cursor: str | None, n: int) -> tuple[list[tuple[str, Entry]], str | None]:
        """Up to `n` live entries whose keys begin with `prefix`, after `cursor`; the next cursor, None at the end."""

    async def now(self) -> float:
        """The store's own clock, in seconds since the epoch; it never goes back."""

    async def close(self) -> None:
        """Releases connections and files. A closed store raises `StoreUnavailable`."""


class Clock(Protocol):
    """Time for checks: `now()` is an aware UTC datetime, which setting the wall clock back does not take back.

    It goes back only where a clock that was ahead is put right, or has been set back for good.
    """

    def now(self) -> datetime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleView:
    """The rule that a check belongs to, as far as an enforcer may know it."""

    policy: str
    action: Action
    phase: Phase
    target: Target
    text: str = ""
    params: tuple[str, ...] = ()
    expires: datetime | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Generic[P]):
    """Everything one check is given. It grows by fields, never by arguments.

    Where a schema says several defaults of one argument, the check runs once for each; the strictest verdict counts.

    `action` is what to judge (`allow`, `deny` or `only`); where the rule says `elicit`, it is the action whose refusal
    becomes a question. `result` is there after the call only. `store` holds this plugin's own namespace and nothing
    else, and for a rule of a token that very rule's own, which ends with the token; `settings` is the plugin's section
    of the file.
    """

    request: RequestContext
    rule: RuleView
    params: P
    action: Action
    clock: Clock
    store: Store
    result: Result | None = None
    settings: Any = None

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments that a component of another process gets, as its caller sent them.

        `request.arguments` are the same with the defaults that its schema says for what was left out. They are what it
        probably does; it is sent nothing of them. For a component of this process both are the values that it gets.
        """
        facts = self.request.facts
        return facts.given if facts is not None else self.request.arguments

    @property
    def published(self) -> Published | None:
        """The argument names that the component publishes; None where the host cannot tell."""
        return self.request.facts.published if self.request.facts is not None else None

    @property
    def asks(self) -> bool:
        """Whether the rule says `elicit`, so that a refusal becomes a question."""
        return self.rule.action is Action.ELICIT

    def refuse(
        self,
        code: str,
        reason: str,
        *,
        detail: str = "",
        retry_after: float | None = None,
        fields: Sequence[str] = (),
        edits: Sequence[Edit] = (),
    ) -> Verdict:
        """A deny, or, where the rule says `elicit`, a question with `reason` as its text."""
        if not self.asks:
            return Verdict.deny(code, reason, detail=detail, retry_after=retry_after)
        return Verdict(
            effect=Effect.ASK,
            code=code,
            reason=reason,
            detail=detail,
            edits=tuple(edits),
            question=Question(text=reason, fields=tuple(fields)),
            retry_after=retry_after,
        )


Names = Callable[[Any, Any, Published], Iterable[tuple[str, ...]]]
CheckFunction = Callable[[Check[Any]], "Verdict | Awaitable[Verdict]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnforcerType:
    """A contribution: one enforcer, by the policy name that rules use.

    `actions` and `phases` are what rules may say. `grants`: its `allow` lets a component through under
    `default: deny`. `attenuates`: it may stand in a token; its verdict may then depend on nothing that the holder can
    change. `hides`: a refusal makes the component absent for this principal. `constant`: the verdict depends on the
    rule and the component alone, so it is computed once. `reads_arguments` / `reads_result`: whether the check looks
    at them; the first may be a function of the params. `timeout` is in seconds. `blocking`: the check may wait, so it
    runs in a worker thread. `validate`, where given, looks at (params, action, phase) when the file is read and returns
    what is wrong, or None. `may_withhold`, for after-checks, says which edits (params, action) can ever yield, so that
    published output schemas stay true; without it every field may leave. `idle` are actions that refuse and withhold
    nothing: in a token they are an error, since a caveat that cannot refuse anything has no business there.
    `names` says which arguments the check reads, of (params, settings, what the component publishes): each is the names
    from the outermost one inwards. They are in the report of a start. Before a component of another process a second
    spelling of one of them is refused, and so is one whose schema cannot be evaluated. Without it the check reads all.
    `counts_together` says of params, for enforcers that charge, whether several principals share their counts.
    `stateful`: it charges, or keeps anything in `check.store`; a token may bear two rules of such enforcers at most.
    """

    name: str
    check: CheckFunction
    params: type[Params] = NoParams
    actions: frozenset[Action] = frozenset({Action.ALLOW, Action.ELICIT})
    phases: frozenset[Phase] = frozenset({Phase.BEFORE})
    grants: bool = False
    attenuates: bool = False
    hides: bool = False
    constant: bool = False
    reads_arguments: bool | Callable[[Any], bool] = True
    reads_result: bool = True
    names: Names | None = None
    timeout: float = 5.0
    blocking: bool = False
    settings: type[Settings] | None = None
    version: str = "1"
    summary: str = ""
    validate: Callable[[Any, Action, Phase], str | None] | None = None
    may_withhold: Callable[[Any, Action], Sequence[Edit]] | None = None
    idle: frozenset[Action] = frozenset()
    counts_together: Callable[[Any], bool] | None = None
    stateful: bool = False


def _unrecorded(event: str, facts: Mapping[str, Any]) -> None:
    """Where nothing is recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreContext:
    """What a store is told when it is opened. `audience` names this server, for keys shared with other servers.

    A relative path in an address starts from `base`, the policy file's directory. `event` records by name what must
    not go unseen (`record_broken`: a key held what this store did not write), with facts that are plain JSON values and
    no secrets; it may raise `AuditUnavailable`.
    """

    audience: str
    settings: Any = None
    base: Path = Path()
    event: Callable[[str, Mapping[str, Any]], None] = _unrecorded


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreType:
    """A contribution: a kind of store, by the scheme of its address (`memory`, `redis`, …).

    `timeout` is in seconds: an operation that has no answer by then is `StoreUnavailable`, and is cancelled.
    `partitioned`: it lies in parts, and one operation charges one part alone. What a key has between its first braces
    (`{…}`) says which part it belongs to; keys without any belong together. Charges over several parts raise
    `StoreUnavailable` with the code `limits_apart`.

    `probe`, where given, tries whether the store at an address can be used just now. It runs before a start, in a
    thread of its own without an event loop, may wait as long as an operation may, and leaves nothing open. What it
    raises stops the start: `PluginError` and `StoreUnavailable` with their texts, which show no address and no secret;
    of any other exception only the class is shown.
    """

    scheme: str
    open: Callable[[str, StoreContext], Store]
    settings: type[Settings] | None = None
    partitioned: bool = False
    timeout: float = 5.0
    summary: str = ""
    probe: Callable[[str, StoreContext], None] | None = None


class AuditSink(Protocol):
    """Where audit records go. A record is a mapping of plain JSON values, already free of secrets."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Records it before returning, or raises."""

    def close(self) -> None:
        """Flushes and releases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkContext:
    """What a sink is told when it is opened. A relative path starts from `base`, the policy file's directory."""

    audience: str
    settings: Any = None
    base: Path = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSinkType:
    """A contribution: a kind of audit sink. `options` is the model of its entry under `config.audit`."""

    name: str
    open: Callable[[Any, SinkContext], AuditSink]
    options: type[Settings] = Settings
    settings: type[Settings] | None = None
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One choice on a form. `name` is the key of the answer; `default` is the choice that a client preselects.

    Raises `ValueError` for a name that asks for a credential: forms travel through client programs (MCP 2025-11-25,
    elicitation: servers must not request sensitive information).
    """

    name: str
    title: str
    options: tuple[Choice, ...]
    default: str

    def __post_init__(self) -> None:
        if not _FIELD.match(self.name) or _CREDENTIAL.search(self.name):
            raise ValueError(f"{self.name!r} cannot be a field of a form")
        if self.default not in [option.name for option in self.options]:
            raise ValueError(f"the default of {self.name!r} is none of its options")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the adapter shows through the client: a text and required choices. It is rendered for each protocol."""

    message: str
    fields: tuple[FormField, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """The approver's question goes through the client: the adapter puts `form` on the wire and brings the reply."""

    form: Form


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproverContext:
    """What an approver is told when it is opened. `mode` is `enforce` or `shadow`, `timeout` in seconds."""

    audience: str
    settings: Any = None
    mode: str = "enforce"
    timeout: float = 120.0


class Approver(Protocol):
    """Asks people. It sees challenges and nothing else: no request, no token, no store.

    A fault of any kind is no approval. `ask` may be called for several challenges at once.
    """

    def available(self) -> bool:
        """Whether somebody can be asked just now. It must not wait."""

    async def ask(self, challenge: Challenge) -> Answer | Pending:
        """The answer, or a form for the adapter to carry.

        An approver that asks out of band waits here for its person; it is cancelled at the end of the time, or when
        the caller goes away, and must then withdraw its question.
        """

    def read(self, challenge: Challenge, reply: Reply) -> Answer:
        """What a client's reply to the form says. Only `ApproverType.in_band` approvers are given one."""

    async def close(self) -> None:
        """Withdraws every open question and releases what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproverType:
    """A contribution: a way to ask people, by the name that `approver:` and `config.approvals` use.

    `in_band`: it answers with a form that the caller's own client shows. `assurance` says how sure it is that a person
    answered. `authority` is the namespace of everybody that it names in `Answer.by`, where there is but one; who bears
    another is not taken. `most` is the number of characters that it can show whole; a longer question is never put to
    it. `open` raises `PluginError` where it cannot work at all, which stops the start.
    """

    name: str
    open: Callable[[ApproverContext], Approver]
    assurance: Assurance
    in_band: bool = False
    authority: str | None = None
    most: int = 100_000
    settings: type[Settings] | None = None
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySourceContext:
    """What a source is told. A relative path in a reference starts from `base`, the policy file's directory.

    `timeout` is in seconds: what is not there by then is not waited for, so a source should give up before.
    """

    settings: Any = None
    base: Path = Path()
    timeout: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySourceType:
    """A contribution: where keys come from, by the scheme of references to it (`vault:PATH#FIELD`).

    `fetch` is given what follows `scheme:` and returns the text there: a secret for `secret_key`, a key file's text for
    `keys`. It runs once a reference, in a thread of its own, and may wait for `timeout` seconds. It raises
    `PluginError` with what is wrong and what to do, and never with a value, a credential or an answer; of any other
    exception only the class is shown. Whatever it raises, the server does not start.
    """

    scheme: str
    fetch: Callable[[str, KeySourceContext], str]
    settings: type[Settings] | None = None
    timeout: float = 10.0
    summary: str = ""


_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_CREDENTIAL = re.compile(r"passw|secret|token|credential|api_?key|private|otp|pin\b|cvv|ssn|card")

Contribution = EnforcerType | StoreType | AuditSinkType | ApproverType | KeySourceType
