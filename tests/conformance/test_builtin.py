"""The package's own enforcers, its store and its fakes run the suites that authors run."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.access import TYPE as TOOL_ACCESS
from mcp_macaroon_middleware.builtin.field_access import TYPE as FIELD_ACCESS
from mcp_macaroon_middleware.builtin.jsonl_sink import JsonlSink
from mcp_macaroon_middleware.builtin.limits import ALLOW_ATTEMPTS, RATE_LIMIT
from mcp_macaroon_middleware.builtin.log_sink import LogSink
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.plugin import AuditSink, Check, Params, Store, Verdict, enforcer
from mcp_macaroon_middleware.plugin.namespace import Namespaced
from mcp_macaroon_middleware.testing import (
    AuditSinkContract,
    Case,
    EnforcerContract,
    Records,
    StoreContract,
)


class TestToolAccess(EnforcerContract):
    enforcer = TOOL_ACCESS
    cases = (
        Case(actions=("allow",), expect={"allow": "allow"}),
        Case(actions=("deny", "elicit"), expect={"deny": "deny", "elicit": "ask"}),
        Case(params=("to*", "other"), actions=("only",), expect={"only": "allow"}),
        Case(params=("other",), actions=("only",), expect={"only": "deny"}),
    )


class TestFieldAccess(EnforcerContract):
    enforcer = FIELD_ACCESS
    cases = (
        Case(params=("owner.email", "id"), result={"id": 1, "owner": {"email": "a@b", "name": "A"}}),
        Case(params=("missing",), result=[{"id": 1}], expect={"elicit": "allow"}),
        Case(params={"fields": ["owner\\.email"]}, result={"owner.email": "a@b"}, expect={"elicit": "ask"}),
    )


class TestRateLimit(EnforcerContract):
    enforcer = RATE_LIMIT
    cases = (
        Case(params=("10/minute", "100/hour"), expect={"allow": "allow"}),
        Case(params={"limits": ["5/30s"], "per": ["principal"]}),
        Case(params={"limits": "5/30s", "cost": "size"}, arguments={"size": 3}, expect={"allow": "allow"}),
    )


class TestAllowAttempts(EnforcerContract):
    enforcer = ALLOW_ATTEMPTS
    cases = (Case(params=("3",)),)


class Hours(Params):
    start: int
    end: int


@enforcer("working_hours", params=Hours)
def working_hours(check: Check[Hours]) -> Verdict:
    if check.params.start <= check.request.at.hour < check.params.end:
        return Verdict.allow()
    return check.refuse("outside_hours", "Only between 9 and 17.")


class TestTheTwentyLinesOfTheDesign(EnforcerContract):
    enforcer = working_hours
    cases = (
        Case(params=("9", "17"), at="2026-01-05T09:00:00Z", expect={"allow": "allow", "elicit": "allow"}),
        Case(params=("9", "17"), at="2026-01-05T17:00:00Z", expect={"allow": "deny", "elicit": "ask"}),
        Case(params={"start": 9, "end": 17}, at="2026-01-05T03:00:00Z", expect={"allow": "deny"}),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestMemoryStore(StoreContract):
    tick = 10.0

    def setup_method(self) -> None:
        self.clock = Clock()

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        store = MemoryStore(clock=self.clock)
        yield store
        await store.close()

    async def advance(self, seconds: float) -> None:
        self.clock.now += seconds


class TestMemoryStoreInRealTime(StoreContract):
    tick = 0.05

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        store = MemoryStore()
        yield store
        await store.close()


class ClosedWithItsOwner(Namespaced):
    """A namespace that closes the store below, so that the suite can close it."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, "plugin/odd:name")
        self.close = inner.close  # type: ignore[method-assign]


class TestNamespaced(TestMemoryStore):
    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        inner = MemoryStore(clock=self.clock)
        await inner.put("plugin/odd:name/intruder", b"x", 1e9)
        await inner.put("other", b"x", 1e9)
        yield ClosedWithItsOwner(inner)
        await inner.close()


class TestJsonlSink(AuditSinkContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "audit.jsonl"

    @contextmanager
    def open_sink(self) -> Iterator[AuditSink]:
        sink = JsonlSink(self.path)
        yield sink
        sink.close()

    def read(self, sink: AuditSink) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def break_sink(self, sink: Any) -> bool:
        self.path.unlink()
        self.path.mkdir()
        return True


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class TestLogSink(AuditSinkContract):
    owns_what_it_writes_to = False

    @contextmanager
    def open_sink(self) -> Iterator[AuditSink]:
        self.handler = Kept()
        logger = logging.Logger("audit", logging.INFO)
        logger.addHandler(self.handler)
        yield LogSink(logger)

    def read(self, sink: AuditSink) -> Sequence[Mapping[str, Any]]:
        return [json.loads(line) for line in self.handler.lines]


class TestRecords(AuditSinkContract):
    @contextmanager
    def open_sink(self) -> Iterator[AuditSink]:
        yield Records()

    def read(self, sink: Any) -> Sequence[Mapping[str, Any]]:
        return list(sink)

    def break_sink(self, sink: Any) -> bool:
        sink.broken = True
        return True
