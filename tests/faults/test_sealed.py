"""A sealed record that is no longer what was written (another type, random bytes, another record, an old schema): what
needs it is refused or asked again, an event says so, and nobody else notices. What forbids is believed all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import mcp_types
import pytest
from asking import Person
from fastmcp import Client, FastMCP
from fastmcp.utilities.tests import asgi_client
from guarded import Guarded, guarded, tokens
from redis_server import BINARIES, RedisServer, running
from several import answered, outcome, question

from mcp_macaroon_middleware.core.sealing import Sealer
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.model import Principal
from mcp_macaroon_middleware.tokens import VerifiedToken, mint, verify

pytestmark = pytest.mark.threat("FI7")

RULES: list[Any] = [
    "bf:send:tool_access:elicit",
    "bf:user:tool_access:allow",
    "af:user:field_access:elicit:email",
    "bf:free:tool_access:allow",
]
LASTS = 600.0


class Shelf:
    """A store, what it keeps, and what becomes of it; a guarded server with two users on it."""

    def __init__(self, kind: str, folder: Path, redis: RedisServer | None) -> None:
        self.kind, self.file, self.redis = kind, folder / "state.db", redis
        self.audience, self.done = secrets.token_hex(8), list[str]()
        server: FastMCP[Any] = FastMCP("shelf", auth=tokens(alice={}, bob={}))

        @server.tool
        def send(to: str) -> str:
            self.done.append(f"send-{to}")
            return f"sent to {to}"

        @server.tool
        def user(id: int) -> dict[str, Any]:
            self.done.append(f"user-{id}")
            return {"id": id, "email": "bob@example.com"}

        @server.tool
        def free() -> str:
            return "free"

        self.address = redis.url() if redis is not None else kind if kind == "memory" else f"sqlite:///{self.file}"
        config = {"store": self.address, "audience": self.audience, "approvals": {"max_pending": 500}}
        self.guarded: Guarded = guarded(server, RULES, config=config)
        self.runtime = self.guarded.guard.runtime
        self.sealer = Sealer(self.runtime.keys, self.audience)

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[tuple[Client[Any], Client[Any]]]:
        """A client of Alice's and one of Bob's."""
        async with (
            asgi_client(self.guarded.server, auth="alice", elicitation_handler=Person()) as alice,
            asgi_client(self.guarded.server, auth="bob", elicitation_handler=Person()) as bob,
        ):
            yield alice, bob
        await self.runtime.close()
        assert self.guarded.exactly_one_end_each()
        assert "internal" not in [record.get("code") for record in self.guarded.records]

    async def names(self, what: str) -> set[str]:
        """The keys of the records of this kind."""
        page, _ = await self.runtime.store.scan(f"approvals/{what}", None, 1000)
        return {name for name, _ in page}

    async def made(self, what: str, doing: Awaitable[Any]) -> tuple[str, Any]:
        """The key of the one record of this kind that comes of doing something, and what else comes of it."""
        before = await self.names(what)
        answer = await doing
        (name,) = await self.names(what) - before
        return name, answer

    async def put(self, name: str, value: bytes) -> None:
        """Puts these bytes where a record was."""
        await self.runtime.store.put(name, value, LASTS)

    async def get(self, name: str) -> bytes:
        """The bytes of a record."""
        (entry,) = await self.runtime.store.get([name])
        assert entry is not None
        return entry.value

    async def retype(self, name: str) -> None:
        """Makes something of another type of it, as the store itself has types."""
        if self.redis is not None:
            (key,) = self.redis_keys(name)
            await asyncio.to_thread(self.redis.ask, "DEL", key)
            await asyncio.to_thread(self.redis.ask, "RPUSH", key, "a", "b")
        else:
            statement = "UPDATE records SET value = 99999999999 WHERE CAST(key AS TEXT) LIKE ?"
            assert await asyncio.to_thread(self.sql, statement, name) == 1

    async def remove(self, name: str) -> None:
        """Takes it away, if it is still there, as an operator would who was told of it."""
        if self.redis is not None:
            for key in self.redis_keys(name):
                await asyncio.to_thread(self.redis.ask, "DEL", key)
        elif self.kind == "sqlite":
            await asyncio.to_thread(self.sql, "DELETE FROM records WHERE CAST(key AS TEXT) LIKE ?", name)
        else:
            await self.runtime.store.take(name)

    def redis_keys(self, name: str) -> list[str]:
        assert self.redis is not None
        return [key.decode() for key in self.redis.ask("KEYS", "*") if key.endswith(b":v:" + name.encode())]

    def sql(self, statement: str, name: str) -> int:
        with contextlib.closing(sqlite3.connect(self.file)) as link, link:
            return link.execute(statement, (f"%{name}",)).rowcount

    def events(self) -> int:
        """How often the audit says that a record is broken."""
        return sum(record["event"] == "record_broken" for record in self.guarded.records)


@pytest.fixture(params=["memory", "sqlite", *sorted(BINARIES)])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    """A store of each kind."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running(request.param)) if request.param in BINARIES else None
        yield Shelf(request.param, tmp_path, redis)


# --- what is done to a record ---------------------------------------------------------------------------------------

Damage = Callable[[Shelf, str], Awaitable[None]]


async def random_bytes(shelf: Shelf, name: str) -> None:
    await shelf.put(name, secrets.token_bytes(200))


async def nothing(shelf: Shelf, name: str) -> None:
    await shelf.put(name, b"")


async def half(shelf: Shelf, name: str) -> None:
    whole = await shelf.get(name)
    await shelf.put(name, whole[: len(whole) // 2])


async def one_bit(shelf: Shelf, name: str) -> None:
    whole = await shelf.get(name)
    await shelf.put(name, whole[:-1] + bytes([whole[-1] ^ 1]))


async def another_seal(shelf: Shelf, name: str) -> None:
    await shelf.put(name, (await shelf.get(name)).replace(b"mm1", b"mm0", 1))


async def another_type(shelf: Shelf, name: str) -> None:
    await shelf.retype(name)


def old(inside: bytes, prefix: bytes = b"", as_name: str = "") -> Damage:
    """A record that this very server has sealed, whose inside is that of another version."""

    async def damage(shelf: Shelf, name: str) -> None:
        own = as_name or name.removeprefix("approvals/")
        await shelf.put(name, prefix + shelf.sealer.seal("record", own, inside))

    damage.__name__ = f"sealed {inside[:24]!r}"
    return damage


def raw(shelf: Shelf) -> list[Damage]:
    """What anybody can do who can write to the store. Nobody else's types are in the memory of this process."""
    damages: list[Damage] = [random_bytes, nothing, half, one_bit, another_seal]
    return damages if shelf.kind == "memory" else [*damages, another_type]


def framed(facts: Any) -> bytes:
    """A leg's inside as it is framed."""
    text = json.dumps(facts).encode()
    return len(text).to_bytes(4, "big") + text


GRANTS = [old(inside) for inside in (b"", b"{}", b"mm_AAAA", b'{"v":0}', b"\xff\xfe")]
LEGS = [
    old(inside, b"record:")
    for inside in (
        b"",
        framed({}),
        framed([]),
        framed(7),
        framed({"id": "x", "call": {}, "phase": "bf"}),
        framed({"id": "x", "call": 7, "phase": "xx"}),
        b"\xff" * 9,
    )
]
EPOCHS = [b"", b"{}", b"[]", b"7", b'{"id": "x"}', b'{"id": "x", "since": 0, "beat": 0, "more": 1}']


async def said(client: Client[Any], tool: str = "send", **arguments: Any) -> str:
    """`ok`, `asked`, or the code of the refusal."""
    result = await client.session.call_tool(tool, arguments or {"to": "bob"}, allow_input_required=True)
    if isinstance(result, mcp_types.InputRequiredResult):
        return "asked"
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return str(code) if code else "error" if result.is_error else "ok"


REFUSED = ("store_unavailable", "record_broken")
"""How a record is refused that the store itself cannot read."""


# --- what allows ----------------------------------------------------------------------------------------------------


async def test_a_grant_counts_for_nothing_and_for_its_caller_alone(shelf: Shelf) -> None:
    async with shelf.clients() as (alice, bob):
        assert await answered(bob, await question(bob), says="period") == "ok"
        for damage in (*raw(shelf), *GRANTS):
            asked = await question(alice)
            name, first = await shelf.made("grant/", answered(alice, asked, says="period"))
            assert (first, await said(alice)) == ("ok", "ok")
            ran, told = len(shelf.done), shelf.events()
            await damage(shelf, name)
            for _ in range(3):
                assert await said(alice) in (REFUSED if damage is another_type else ("asked",)), damage.__name__
                assert await said(bob) == "ok", damage.__name__
                assert await outcome(alice, "free") == "ok"
            assert len(shelf.done) == ran + 3, "bob's calls alone ran"
            assert shelf.events() > told, damage.__name__
            await shelf.remove(name)


async def test_a_question_is_asked_again_and_its_answer_runs_nothing(shelf: Shelf) -> None:
    async with shelf.clients() as (alice, bob):
        for number, damage in enumerate((*raw(shelf), *LEGS)):
            to = f"p{number}"
            theirs = await question(bob, to=to)
            name, asked = await shelf.made("leg/", question(alice, to=to))
            told = shelf.events()
            await damage(shelf, name)
            first = await answered(alice, asked, to=to)
            assert first in ("approval_stale", *(REFUSED if damage is another_type else ())), damage.__name__
            assert await answered(alice, asked, to=to) in ("approval_stale", "grant_used", *REFUSED)
            assert shelf.done == [f"send-p{before}" for before in range(number) for _ in range(2)], "it did not run"
            assert shelf.events() > told, damage.__name__
            assert await answered(bob, theirs, to=to) == "ok", damage.__name__
            assert await answered(alice, await question(alice, to=to), to=to) == "ok", "whoever asks again is asked"
            await shelf.remove(name)


async def test_a_result_that_waits_is_lost_and_its_tool_does_not_run_again(shelf: Shelf) -> None:
    async with shelf.clients() as (alice, bob):
        for number, damage in enumerate((*raw(shelf), *LEGS)):
            theirs = await question(bob, "user", id=1000 + number)
            name, asked = await shelf.made("leg/", question(alice, "user", id=number))
            told = shelf.events()
            await damage(shelf, name)
            first = await answered(alice, asked, "user", id=number)
            assert first in ("approval_stale", *(REFUSED if damage is another_type else ())), damage.__name__
            assert shelf.done.count(f"user-{number}") == 1
            assert shelf.events() > told, damage.__name__
            assert await answered(bob, theirs, "user", id=1000 + number) == "ok", damage.__name__
            await shelf.remove(name)


async def test_an_epoch_begins_anew_and_what_was_approved_before_it_is_asked_again(shelf: Shelf) -> None:
    inside = [old(text, as_name=(await _epoch_name(shelf))) for text in EPOCHS]
    async with shelf.clients() as (alice, _):
        for damage in (*raw(shelf), *inside):
            assert await answered(alice, await question(alice), says="period") == "ok", damage.__name__
            assert await said(alice) == "ok"
            ran = len(shelf.done)
            await damage(shelf, "approvals/epoch")
            for _ in range(3):
                assert await said(alice) in (REFUSED if damage is another_type else ("asked",)), damage.__name__
                assert await outcome(alice, "free") == "ok", "what needs no approval goes on"
            assert len(shelf.done) == ran
            if damage is another_type:
                await shelf.remove("approvals/epoch")
                assert await said(alice) == "asked"
        whys = [record["why"] for record in shelf.guarded.records if record["event"] == "epoch"]
        assert whys.count("broken") == len(inside) + 5


async def _epoch_name(shelf: Shelf) -> str:
    """The name that the epoch's record is sealed for."""
    approvals: Any = shelf.runtime.engine._approvals
    return str(approvals._epoch._bound)


# --- what forbids ---------------------------------------------------------------------------------------------------


async def test_a_decline_is_believed_even_by_a_server_that_has_just_started(shelf: Shelf) -> None:
    async with shelf.clients() as (alice, bob):
        approvals: Any = shelf.runtime.engine._approvals
        for number, damage in enumerate((*raw(shelf), *GRANTS)):
            to = f"p{number}"
            asked = await question(alice, to=to)
            name, first = await shelf.made("declined/", answered(alice, asked, says="deny", to=to))
            assert first == "declined"
            await damage(shelf, name)
            for fresh in (False, True):
                if fresh:
                    approvals._declined = type(approvals._declined)()  # what it remembers by itself is gone
                expected = ("declined", *REFUSED) if damage is another_type else ("declined",)
                assert await said(alice, to=to) in expected, damage.__name__
            assert await said(bob, to=to) == "asked", damage.__name__
            assert await said(alice, to=f"other-{number}") == "asked", "this very call alone was declined"
            await shelf.remove(name)
        assert shelf.done == []


REVOKED = [old(inside) for inside in (b"", b"{}", b"null", b'"x"', b'{"before": 1}')]
ALICE, BOB = (Principal(kind="user", namespace="", subject=who) for who in ("alice", "bob"))


@pytest.mark.parametrize("what", ["id", "principal"])
async def test_a_revocation_is_believed_even_by_a_server_that_has_just_started(shelf: Shelf, what: str) -> None:
    revocations = shelf.runtime.engine.revocations
    await revocations.begin()
    for damage in (*raw(shelf), *REVOKED):
        hers, his = (token_of(shelf, who) for who in ("alice", "bob"))
        long_ago = hers.issued_at - timedelta(days=1)
        doing = revocations.revoke(hers.id) if what == "id" else revocations.revoke_principal(ALICE, long_ago)
        name, _ = await shelf.made("revoked/", doing)
        await damage(shelf, name)
        for started in (revocations, just_started(revocations)):
            if damage is another_type and (what == "principal" or started is not revocations):
                with pytest.raises(StoreUnavailable):
                    await started.fault(hers, ALICE)
            elif what == "id" or started is not revocations:
                assert await started.fault(hers, ALICE) == "token_revoked", damage.__name__
            assert await started.fault(his, BOB) is None, damage.__name__
        await shelf.remove(name)
        revocations = just_started(revocations)
    await shelf.runtime.close()


def token_of(shelf: Shelf, who: str) -> VerifiedToken:
    """A token of somebody's."""
    text = mint(shelf.runtime.keys, subject=who, audience=shelf.audience, expires=timedelta(hours=1))
    return verify(shelf.runtime.keys, text, audience=shelf.audience)


def just_started(revocations: Any) -> Any:
    """The same revocations in a server that remembers nothing by itself."""
    fresh = copy.copy(revocations)
    for name in ("_known", "_instants"):
        setattr(fresh, name, type(getattr(revocations, name))())
    return fresh
