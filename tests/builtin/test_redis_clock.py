"""The redis store on servers whose clock is not ours, or steps: real servers that are told another time by libfaketime.

Where that library is not installed, `test_redis_windows` proves the same with the time that the scripts are given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_many import until
from redis_server import BINARIES, FAKETIME, RedisServer, Timed, line, opened, running

from mcp_macaroon_middleware.plugin import Amount

pytestmark = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")

SPAN = 4.0
DAY = 86_400


class Machine:
    """A server and its clock."""

    def __init__(self, server: RedisServer, timed: Timed) -> None:
        self.server, self._timed = server, timed

    async def set(self, seconds: int) -> None:
        """Sets its clock so far beside ours, and returns once its scripts are told so."""
        self._timed.set(seconds)
        await asyncio.to_thread(until, lambda: abs(self._told() - time.time() - seconds) < 30)

    def _told(self) -> float:
        return float(self.server.ask("EVAL", "return redis.call('TIME')", 0)[0])


@pytest.fixture(params=sorted(BINARIES))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """One for a test."""
    timed = Timed(tmp_path)
    with running(request.param, timed=timed) as server:
        yield Machine(server, timed)


def limit(*, refills: bool = False, amount: int = 1) -> Amount:
    """Two in `SPAN` seconds."""
    return Amount(key=f"k{refills}", amount=amount, limit=2, window=SPAN, refills=refills)


@pytest.mark.threat("K05")
@pytest.mark.parametrize("off", [300, -300])
async def test_on_a_server_whose_clock_is_five_minutes_off_limits_and_values_last_as_long_as_they_should(
    machine: Machine, off: int
) -> None:
    await machine.set(off)
    one, two = opened(machine.server, "mail"), opened(machine.server, "mail")
    assert abs(await one.now() - time.time() - off) < 30
    for refills in (False, True):
        assert (await one.add([limit(refills=refills, amount=2)])).ok
        refused = await two.add([limit(refills=refills)])
        assert not refused.ok
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= SPAN
    await one.put("short", b"v", SPAN / 4)
    await one.put("long", b"v", 600)
    await asyncio.sleep(SPAN + 0.2)
    assert (await two.get(["short"])) == [None]
    assert (await two.get(["long"])) != [None]
    for refills in (False, True):
        assert (await two.add([limit(refills=refills, amount=2)])).ok
    await asyncio.gather(one.close(), two.close())


@pytest.mark.threat("K06", "FI10")
@pytest.mark.parametrize("refills", [False, True])
async def test_a_clock_that_goes_a_day_ahead_and_back_gives_one_window_and_locks_for_one(
    machine: Machine, refills: bool
) -> None:
    store = opened(machine.server)
    assert (await store.add([limit(refills=refills, amount=2)])).ok
    await machine.set(DAY)
    ahead = [(await store.add([limit(refills=refills)])).ok for _ in range(4)]
    assert ahead == [True, True, False, False], "a step ahead gives what one window holds, as a day would, and no more"
    await machine.set(0)
    began = time.monotonic()
    back = await store.add([limit(refills=refills)])
    assert not back.ok, "the way back refilled it"
    assert back.retry_after is not None
    assert back.retry_after <= SPAN * 65 / 64 + 0.1
    await asyncio.sleep(back.retry_after + 0.1)
    assert (await store.add([limit(refills=refills)])).ok, "it is locked for longer than a window"
    assert time.monotonic() - began >= SPAN / 2 * 0.9
    await store.close()


@pytest.mark.threat("K06", "K07")
@pytest.mark.parametrize("refills", [False, True])
async def test_a_clock_that_goes_back_an_hour_refills_nothing_and_locks_for_one_window(
    machine: Machine, refills: bool
) -> None:
    store = opened(machine.server, "mail")
    assert (await store.add([limit(refills=refills, amount=2)])).ok
    await machine.set(-3600)
    for _ in range(2):
        back = await store.add([limit(refills=refills)])
        assert not back.ok
        assert back.retry_after is not None
    assert back.retry_after is not None
    assert back.retry_after <= SPAN * 65 / 64 + 0.1
    (key,) = (key for key in await asyncio.to_thread(machine.server.ask, "KEYS", "mcpm:*") if b":k" in key)
    assert await asyncio.to_thread(machine.server.ask, "PTTL", key) <= (SPAN * 65 / 64 + 1.1) * 1000
    await asyncio.sleep(back.retry_after + 0.1)
    assert (await store.add([limit(refills=refills)])).ok
    await store.close()


@pytest.mark.threat("K06", "D07")
async def test_the_time_that_is_told_and_what_is_kept_do_not_go_back_with_the_clock(machine: Machine) -> None:
    store = opened(machine.server)
    await store.put("k", b"v", 600)
    first = await store.now()
    await machine.set(-7200)
    assert await store.now() >= first
    assert (await store.get(["k"])) != [None]
    assert await store.take("k") == b"v"
    assert await store.take("k") is None
    assert (await store.add([line(limit=1)])).ok
    assert not (await store.add([line(limit=1)])).ok
    await store.close()
