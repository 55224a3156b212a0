"""What is revoked stays revoked: whoever revokes at the same time, whatever becomes of the record in the store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agreeing import Slow, emptied
from lab import ALICE, BOB, RING

from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.core.approvals import Approvals
from mcp_macaroon_middleware.core.forbidden import Forbidden, Latest
from mcp_macaroon_middleware.core.revocation import Revocations
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.model import Principal
from mcp_macaroon_middleware.plugin import Store
from mcp_macaroon_middleware.tokens import VerifiedToken, attenuate, mint, verify

NOW = datetime.now(UTC)
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(days=1)


class Broken(MemoryStore):
    """A store that cannot be reached while a test says so, or where somebody else is always faster."""

    down = False
    contended = False

    async def put(self, key: str, value: bytes, ttl: float) -> None:
        self._fail()
        await super().put(key, value, ttl)

    async def swap(self, key: str, version: str | None, value: bytes, ttl: float) -> bool:
        self._fail()
        return False if self.contended else await super().swap(key, version, value, ttl)

    def _fail(self) -> None:
        if self.down:
            raise StoreUnavailable("down")


def revocations(store: Store, events: list[Any] | None = None) -> Revocations:
    """Those of one server."""

    def event(name: str, facts: Any) -> None:
        if events is not None:
            events.append((name, facts))

    return Approvals(keys=RING, store=store, audience="lab", event=event).revocations


def token(text: str | None = None, subject: str = "alice") -> VerifiedToken:
    text = text or mint(RING, subject=subject, audience="lab", namespace="https://idp")
    return verify(RING, text, audience="lab")


@pytest.mark.threat("N07")
@pytest.mark.parametrize("order", [(EARLIER, LATER), (LATER, EARLIER)], ids=["the weaker first", "the stronger first"])
async def test_of_two_revocations_of_a_principal_at_once_the_stronger_counts(order: tuple[datetime, datetime]) -> None:
    store = Slow()
    await revocations(store).begin()
    await asyncio.gather(*(revocations(store).revoke_principal(ALICE, before) for before in order))
    assert await revocations(store).fault(token(), ALICE) == "token_revoked"


@pytest.mark.threat("N07")
async def test_of_many_revocations_of_a_principal_at_once_the_latest_instant_counts() -> None:
    store = Slow()
    servers = [revocations(store) for _ in range(12)]
    instants = [EARLIER + timedelta(hours=n) for n in range(11)] + [LATER]
    await asyncio.gather(*(s.revoke_principal(ALICE, at) for s, at in zip(servers, instants[::-1], strict=True)))
    assert await revocations(store).fault(token(), ALICE) == "token_revoked"


@pytest.mark.threat("N07")
async def test_a_later_revocation_up_to_an_earlier_instant_takes_nothing_back() -> None:
    store, events = MemoryStore(), []  # type: tuple[MemoryStore, list[Any]]
    await revocations(store).revoke_principal(ALICE, LATER)
    await revocations(store, events).revoke_principal(ALICE, EARLIER)
    assert await revocations(store).fault(token(), ALICE) == "token_revoked"
    assert events[-1] == ("revoked", {"subject": "alice", "before": LATER.isoformat()})


async def test_what_was_issued_after_the_instant_and_to_others_counts() -> None:
    store = MemoryStore()
    await revocations(store).revoke_principal(ALICE, EARLIER)
    assert await revocations(store).fault(token(), ALICE) is None
    await revocations(store).revoke_principal(ALICE, LATER)
    assert await revocations(store).fault(token(subject="bob"), BOB) is None


@pytest.mark.threat("B13", "N10")
@pytest.mark.parametrize("what", ["principal", "key", "token", "branch"])
@pytest.mark.parametrize("saw", ["revoked it", "has seen it"])
async def test_L5_deleting_the_record_brings_nothing_back_where_it_was_made_or_seen(what: str, saw: str) -> None:
    store = MemoryStore()
    held = token(
        attenuate(mint(RING, subject="alice", audience="lab", namespace="https://idp"), "bf:x:tool_access:deny")
    )
    one, other = revocations(store), revocations(store)
    if what == "principal":
        await one.revoke_principal(ALICE, LATER)
    elif what == "key":
        await one.revoke_key(held.key_id)
    else:
        await one.revoke(held.lineage[0 if what == "token" else -1])
    watching = one if saw == "revoked it" else other
    if watching is other:
        assert await other.fault(held, ALICE) == "token_revoked"
    assert await emptied(store, "revoked/")
    assert await watching.fault(held, ALICE) == "token_revoked"
    assert await revocations(store).fault(held, ALICE) is None, "who has never seen it cannot know"


@pytest.mark.threat("N07", "N02")
@pytest.mark.parametrize("how", ["down", "contended"])
async def test_L2_a_revocation_that_the_store_does_not_take_fails_aloud_and_holds_here(how: str) -> None:
    store, events = Broken(), []  # type: tuple[Broken, list[Any]]
    server = revocations(store, events)
    await server.begin()
    setattr(store, how, True)
    with pytest.raises(StoreUnavailable):
        await server.revoke_principal(ALICE, LATER)
    if how == "down":
        with pytest.raises(StoreUnavailable):
            await server.revoke(token(subject="bob").lineage[0])
    assert [name for name, _ in events] == ["epoch"], "it is not told as done"
    setattr(store, how, False)
    assert await server.fault(token(), ALICE) == "token_revoked"


@pytest.mark.threat("FI7")
async def test_L2_a_record_that_cannot_be_read_revokes_everything_until_it_is_written_anew_up_to_now() -> None:
    store = MemoryStore()
    await revocations(store).revoke_principal(ALICE, EARLIER)
    (name,) = [key for key, _ in (await store.scan("", None, 99))[0] if "revoked/principal" in key]
    await store.put(name, b"what nobody sealed", 600)
    before = token()
    assert await revocations(store).fault(before, ALICE) == "token_revoked"
    await asyncio.sleep(1.1)  # tokens are issued to the second
    await revocations(store).revoke_principal(ALICE, EARLIER)
    assert await revocations(store).fault(before, ALICE) == "token_revoked", "nobody knows what it had said"
    await asyncio.sleep(1.1)
    assert await revocations(store).fault(token(), ALICE) is None


async def test_an_instant_without_a_time_zone_is_no_instant() -> None:
    with pytest.raises(ValueError, match="time zone"):
        await revocations(MemoryStore()).revoke_principal(ALICE, datetime(2026, 1, 1))


@pytest.mark.threat("FI23", "P03")
async def test_what_is_remembered_is_bounded_and_the_store_still_knows_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    server = revocations(store)
    monkeypatch.setattr(server, "_instants", Latest(most=8))
    people = [Principal(kind="user", namespace="https://idp", subject=f"u{n}") for n in range(100)]
    for number, person in enumerate(people):
        await server.revoke_principal(person, LATER + timedelta(seconds=number))
    assert len(server._instants) <= 8
    for number, person in enumerate(people):
        held = token(subject=f"u{number}")
        assert await server.fault(held, person) == "token_revoked"
    assert len(server._instants) <= 8


def test_of_what_is_remembered_the_earliest_is_forgotten_first_and_an_instant_only_moves_on() -> None:
    latest = Latest(most=8)
    for number in range(9):
        latest.tell(f"n{number}", float(number))
        latest.tell(f"n{number}", -1.0)
    assert [latest.of(f"n{n}") for n in (0, 1)] == [float("-inf")] * 2
    assert [latest.of(f"n{n}") for n in (2, 8)] == [2.0, 8.0]


def test_what_forbids_longest_is_remembered_longest() -> None:
    known = Forbidden(most=8)
    for number in range(9):
        known.add(f"n{number}", 60.0 + number)
    assert [f"n{n}" in known for n in (0, 1, 2, 8)] == [False, False, True, True]
