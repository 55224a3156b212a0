"""Writes the audit records: an intent before each run, one final record a request. It never holds a secret (law L7).

Arguments are recorded as keyed digests, so that equal values can be found and none can be read; a setting may name
arguments to record in clear. Records are plain mappings; the sinks give them a form.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_json, to_jsonable_python

from ..errors import ArgumentsInvalid, AuditUnavailable
from ..model import Component, Principal, RequestContext, thawed
from ..plugin.contract import AuditSink
from .deadline import now, settled

logger: Final = logging.getLogger("mcp_macaroon_middleware")

DIGEST_CHARACTERS: Final = 32
KEPT: Final = 4096
MOST_ARGUMENTS: Final = 128
"""The most arguments of one call that a record names."""
CLEAR: Final = 4096
"""Bytes of JSON of one argument that a record shows in clear."""
LONG: Final = 1000
"""Characters of a name or address, as a caller wrote it, that a record shows."""
BEGINS: Final = 200
LATE: Final = 10_000
"""The most records that are kept for a sink which cannot take them at present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSlot:
    """A sink as the file lists it. If a `required` one cannot record, the call is refused."""

    name: str
    sink: AuditSink
    required: bool = False


@dataclass(slots=True)
class _Backlog:
    """What a sink could not take, the oldest first, and how many records there was no room for."""

    since: float
    records: deque[dict[str, Any]] = field(default_factory=deque)
    dropped: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """Keeps a record, if there is room."""
        if len(self.records) < LATE:
            self.records.append(record)
        else:
            self.dropped += 1

    def drop(self) -> None:
        """Gives up on the first record."""
        if self.records:
            self.records.popleft()
            self.dropped += 1


class AuditLog:
    """Numbers records, removes what must not be written, and hands them to every sink.

    Raises `AuditUnavailable` where a required sink, or every sink, failed to record. What a sink could not take it gets
    once it can, marked `late`, up to `LATE` records; the event `unrecorded` says how many more there were.
    """

    def __init__(
        self, slots: Sequence[SinkSlot], *, digest_key: bytes, clear_arguments: frozenset[str] = frozenset()
    ) -> None:
        self._slots = tuple(slots)
        self._key = digest_key
        self.clear_arguments = clear_arguments
        self.boot = secrets.token_hex(8)
        self.failures = 0
        self._sequence = 0
        self._backlogs: dict[int, _Backlog] = {}
        self._components: dict[Component, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"AuditLog(sinks={[slot.name for slot in self._slots]!r})"

    def event(self, event: str, facts: Mapping[str, Any]) -> None:
        """Records something that is not a request: a start, a reload, a component seen for the first time."""
        self.write({"event": event, **facts})

    def write(self, facts: Mapping[str, Any], *, otherwise: Mapping[str, Any] | None = None) -> None:
        """Numbers and records `facts` in every sink. `otherwise` is what becomes true instead if that fails."""
        record = self._numbered(facts)
        recorded, lost = False, not self._slots
        for slot in self._slots:
            if self._into(slot, record, otherwise):
                recorded = True
            else:
                lost = lost or slot.required
        if lost or not recorded:
            raise AuditUnavailable("the audit record could not be written")

    def _numbered(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        self._sequence += 1
        return {"time": round(time.time(), 6), "boot": self.boot, "seq": self._sequence, **facts}

    def _into(self, slot: SinkSlot, record: dict[str, Any], otherwise: Mapping[str, Any] | None) -> bool:
        """Whether a sink has taken a record, after what it still had to take. What it has not, it gets later."""
        backlog = self._backlogs.get(id(slot.sink))
        caught_up = backlog is None or self._caught_up(slot, backlog)
        if not self._put(slot, record):
            backlog = backlog or self._backlogs.setdefault(id(slot.sink), _Backlog(since=record["time"]))
            backlog.add({**record, **(otherwise or {}), "late": True})
            return False
        if backlog is not None and not caught_up:
            backlog.drop()  # the sink works, so it is this very record that it does not take
        return True

    def _caught_up(self, slot: SinkSlot, backlog: _Backlog) -> bool:
        """Gives a sink what it could not take before, in order, and says how many records it never got."""
        while backlog.records:
            if not self._put(slot, backlog.records[0]):
                return False
            backlog.records.popleft()
        missing = {"event": "unrecorded", "count": backlog.dropped, "since": backlog.since}
        if backlog.dropped and not self._put(slot, self._numbered(missing)):
            return False
        self._backlogs.pop(id(slot.sink), None)
        return True

    def _put(self, slot: SinkSlot, record: Mapping[str, Any]) -> bool:
        try:
            write: Callable[[Mapping[str, Any]], object] = slot.sink.write
            settled(write(record))  # what is to come later is no record
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a sink must not end the program either
            self.failures += 1
            logger.error("audit sink %s cannot record: %s", slot.name, type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """Closes every sink; one that fails at that keeps no other open."""
        for slot in self._slots:
            backlog = self._backlogs.get(id(slot.sink))
            if backlog is not None and not self._caught_up(slot, backlog):
                logger.error("audit sink %s is closed and lacks %d records", slot.name, len(backlog.records))
            try:
                now(slot.sink.close)
            except Exception as error:
                logger.error("audit sink %s could not be closed: %s", slot.name, type(error).__name__)

    # --- what a record says about a request -----------------------------------------------------------------------

    def request_facts(self, request: RequestContext, lineage: Sequence[str]) -> dict[str, Any]:
        """The facts of a request that every record of it carries."""
        facts: dict[str, Any] = {
            "request": request.id,
            "principal": principal_facts(request.principal),
            "component": self._component(request.component),
        }
        if request.client is not None:
            facts["client"] = request.client
        if lineage:
            facts["token"] = list(lineage)
        if request.client_address is not None:
            facts["address"] = request.client_address
        if request.nested:
            facts["nested"] = True
        if request.arguments:
            facts["arguments"] = self.digests(request.arguments)
        return facts

    def _component(self, component: Component) -> dict[str, Any]:
        """A component's facts, kept for those that no caller can choose."""
        if component.uri is not None:
            return component_facts(component)
        facts = self._components.get(component)
        if facts is None:
            if len(self._components) >= KEPT:
                self._components.clear()
            facts = self._components[component] = component_facts(component)
        return facts

    def digests(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Each argument as a keyed digest, or in clear where the file names it; with bounds."""
        if len(arguments) > MOST_ARGUMENTS:
            return self._few(arguments)
        return {
            name if len(name) <= LONG else short(name): self._cleared(name, value)
            if name in self.clear_arguments
            else self.digest(name, value)
            for name, value in arguments.items()
        }

    def _few(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The first arguments, and how many more there were with one digest for them."""
        names = list(arguments)
        rest = {name: arguments[name] for name in names[MOST_ARGUMENTS:]}
        told = self.digests({name: arguments[name] for name in names[:MOST_ARGUMENTS]})
        return told | {f"({len(rest)} more)": self.digest("", rest)}

    def _cleared(self, name: str, value: Any) -> Any:
        """An argument in clear; a long one by how it begins, its digest, and its length in bytes of JSON."""
        plain = thawed(value)
        try:
            text = json.dumps(plain, default=_plain)
        except RecursionError:
            raise ArgumentsInvalid("an argument is nested too deep to be recorded") from None
        if len(text) <= CLEAR:
            return plain
        begins = plain if isinstance(plain, str) else text
        return {"begins": begins[:BEGINS], "digest": self.digest(name, value), "length": len(text)}

    def digest(self, name: str, value: Any) -> str:
        """A keyed digest of one argument: equal for equal values, and not to be reversed without the key.

        Raises `ArgumentsInvalid` for one that is nested too deep to be written down.
        """
        # A lone surrogate is JSON that a client can send, and nothing that UTF-8 can say: json.dumps escapes it.
        if name.isascii() and (value is None or isinstance(value, int | float) or _is_ascii(value)):
            text = to_json([name, value])
        else:
            try:
                text = json.dumps([name, value], sort_keys=True, default=_plain).encode()
            except RecursionError:
                raise ArgumentsInvalid("an argument is nested too deep to be recorded") from None
        return "hmac:" + hmac.digest(self._key, text, "sha256").hex()[:DIGEST_CHARACTERS]


def _is_ascii(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return to_jsonable_python(value, fallback=lambda other: type(other).__name__)


def short(text: str) -> str:
    """A text that a caller may have written; a long one by how it begins, its length and its digest."""
    if len(text) <= LONG:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARACTERS]
    return f"{text[:BEGINS]}… ({len(text)} characters, sha256:{digest})"


def principal_facts(principal: Principal) -> dict[str, Any]:
    """A principal as a record writes it."""
    facts: dict[str, Any] = {"kind": principal.kind, "namespace": principal.namespace, "subject": principal.subject}
    if principal.tenant is not None:
        facts["tenant"] = principal.tenant
    return facts


def component_facts(component: Component) -> dict[str, Any]:
    """A component as a record writes it."""
    facts: dict[str, Any] = {"kind": component.kind.value, "name": short(component.name)}
    for key, value in (
        ("server", component.server),
        ("version", component.version),
        ("uri", component.uri and short(component.uri)),
        ("digest", component.digest),
    ):
        if value:
            facts[key] = value
    return facts
