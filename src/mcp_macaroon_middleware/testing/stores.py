"""`StoreContract`: the six primitives of a store, as tests that every store runs, ours included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Final

from ..errors import StoreUnavailable
from ..plugin.contract import Added, Amount, Entry, Store

LONG: Final = 600.0
HOSTILE: Final = (
    "",
    " ",
    "a",
    "A",
    "a:b",
    "a\nb",
    "a\x00b",
    "a*",
    "a?",
    "a[b]",
    "{a}",
    "a%",
    "a_",
    "a'--",
    "a\\b",
    "a/b",
    "a ",
    "é",
    "e\u0301",
    "\u202ea",
    "🔑",
    "k" * 1000,
)


class StoreContract:
    """Subclass it and give `open_store`, which yields a fresh, empty store and closes it.

    Where the store's clock can be moved, override `advance`; else the tests sleep, and `tick`, in seconds, is a span
    that the store tells apart for certain. `shared` stores also give `open_peer`: another handle on the same data.
    """

    macaroon_suite: ClassVar[bool] = True
    tick: ClassVar[float] = 0.2

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        """A fresh, empty store."""
        raise LookupError(f"{type(self).__name__} gives no open_store")

    @asynccontextmanager
    async def open_peer(self, store: Store) -> AsyncIterator[Store]:
        """Another handle on the data of `store`; the same one, unless it is shared between processes."""
        assert not store.shared, "a shared store gives open_peer"
        yield store

    async def advance(self, seconds: float) -> None:
        """Lets that much of the store's own time pass."""
        await asyncio.sleep(seconds)

    # --- get, put -------------------------------------------------------------------------------------------------

    async def test_what_was_put_is_got_in_the_order_asked_for(self) -> None:
        async with self.open_store() as store:
            await store.put("a", b"1", LONG)
            await store.put("b", b"2", LONG)
            assert _values(await store.get(["b", "missing", "a", "b"])) == [b"2", None, b"1", b"2"]
            assert await store.get([]) == []

    async def test_values_are_bytes_of_any_kind_and_length(self) -> None:
        async with self.open_store() as store:
            for value in (b"", b"\x00", bytes(range(256)), b"x" * 1_000_000):
                await store.put("k", value, LONG)
                assert _values(await store.get(["k"])) == [value]

    async def test_no_two_keys_are_ever_one(self) -> None:
        async with self.open_store() as store:
            for number, key in enumerate(HOSTILE):
                await store.put(key, str(number).encode(), LONG)
            found = _values(await store.get(HOSTILE))
            assert found == [str(number).encode() for number in range(len(HOSTILE))]

    async def test_a_value_is_gone_after_its_ttl(self) -> None:
        async with self.open_store() as store:
            await store.put("short", b"1", self.tick)
            await store.put("long", b"2", LONG)
            await self.advance(self.tick * 2)
            assert _values(await store.get(["short", "long"])) == [None, b"2"]
            assert await store.take("short") is None
            assert [key for key, _ in (await store.scan("", None, 10))[0]] == ["long"]

    async def test_putting_again_sets_value_and_ttl_anew(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", self.tick)
            await store.put("k", b"2", LONG)
            await self.advance(self.tick * 2)
            assert _values(await store.get(["k"])) == [b"2"]
            await store.put("k", b"3", self.tick)
            await self.advance(self.tick * 2)
            assert _values(await store.get(["k"])) == [None]

    # --- swap, take -----------------------------------------------------------------------------------------------

    async def test_swap_with_no_version_sets_only_what_is_absent(self) -> None:
        async with self.open_store() as store:
            assert await store.swap("k", None, b"1", LONG) is True
            assert await store.swap("k", None, b"2", LONG) is False
            assert _values(await store.get(["k"])) == [b"1"]
            await store.put("gone", b"1", self.tick)
            await self.advance(self.tick * 2)
            assert await store.swap("gone", None, b"2", LONG) is True

    async def test_swap_sets_only_over_the_version_that_was_read(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", LONG)
            version = await _version(store, "k")
            assert await store.swap("k", version, b"2", LONG) is True
            assert await store.swap("k", version, b"3", LONG) is False
            assert _values(await store.get(["k"])) == [b"2"]
            assert await store.swap("missing", version, b"1", LONG) is False

    async def test_a_version_never_comes_back_even_with_the_same_value(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", LONG)
            first = await _version(store, "k")
            await store.put("k", b"1", LONG)
            second = await _version(store, "k")
            await store.take("k")
            await store.put("k", b"1", LONG)
            third = await _version(store, "k")
            assert len({first, second, third}) == 3
            assert await store.swap("k", first, b"2", LONG) is False

    async def test_a_swap_that_fails_leaves_the_ttl_as_it_was(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", self.tick)
            await store.swap("k", "no such version", b"2", LONG)
            await self.advance(self.tick * 2)
            assert _values(await store.get(["k"])) == [None]

    async def test_take_gives_the_value_once(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", LONG)
            assert await store.take("k") == b"1"
            assert await store.take("k") is None
            assert _values(await store.get(["k"])) == [None]

    # --- together -------------------------------------------------------------------------------------------------

    async def test_of_many_takers_one_gets_the_value(self) -> None:
        async with self.open_store() as store, self.open_peer(store) as peer:
            for _ in range(5):
                await store.put("k", b"1", LONG)
                taken = await asyncio.gather(*(each.take("k") for each in [store, peer] * 20))
                assert [value for value in taken if value is not None] == [b"1"]

    async def test_of_many_swappers_one_wins(self) -> None:
        async with self.open_store() as store, self.open_peer(store) as peer:
            for version in (None, "read"):
                known = await _version(store, "k") if version else None
                won = await asyncio.gather(*(each.swap("k", known, b"1", LONG) for each in [store, peer] * 20))
                assert sum(won) == 1

    async def test_many_chargers_never_pass_the_limit(self) -> None:
        async with self.open_store() as store, self.open_peer(store) as peer:
            line = Amount(key="limit", amount=1, limit=10, window=LONG)
            answers = await asyncio.gather(*(each.add([line]) for each in [store, peer] * 25))
            assert sum(answer.ok for answer in answers) == 10
            assert max(answer.used[0] for answer in answers) == 10

    async def test_a_call_that_is_cancelled_leaves_the_store_usable(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", LONG)
            tasks = [asyncio.ensure_future(store.take(f"k{number}")) for number in range(20)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert _values(await store.get(["k"])) == [b"1"]

    # --- add ------------------------------------------------------------------------------------------------------

    async def test_add_charges_every_line_and_says_how_full_it_is(self) -> None:
        async with self.open_store() as store:
            lines = [Amount(key="a", amount=2, limit=5, window=LONG), Amount(key="b", amount=1, limit=9, window=LONG)]
            assert await store.add(lines) == Added(ok=True, used=(2, 1), retry_after=0.0)
            assert await store.add(lines) == Added(ok=True, used=(4, 2), retry_after=0.0)

    async def test_add_charges_no_line_if_one_does_not_fit(self) -> None:
        async with self.open_store() as store:
            wide, narrow = _line("wide", 1, 100), _line("narrow", 1, 1)
            assert (await store.add([wide, narrow])).ok
            refused = await store.add([wide, narrow])
            assert (refused.ok, refused.used) == (False, (1, 1))
            assert refused.retry_after is not None
            assert 0 < refused.retry_after <= LONG
            assert (await store.add([_line("wide", 0, 100)])).used == (1,)

    async def test_an_amount_of_nothing_only_looks(self) -> None:
        async with self.open_store() as store:
            look = _line("k", 0, 1)
            assert await store.add([look]) == Added(ok=True, used=(0,), retry_after=0.0)
            await store.add([_line("k", 1, 1)])
            assert (await store.add([look])).used == (1,)
            assert (await store.add([_line("k", 1, 1)])).ok is False

    async def test_two_lines_of_one_key_count_together(self) -> None:
        async with self.open_store() as store:
            assert (await store.add([_line("k", 1, 1), _line("k", 1, 1)])).ok is False
            assert (await store.add([_line("k", 0, 1)])).used == (0,)
            assert (await store.add([_line("k", 1, 2), _line("k", 1, 2)])).ok is True
            assert (await store.add([_line("k", 0, 2)])).used == (2,)

    async def test_what_can_never_fit_says_so(self) -> None:
        async with self.open_store() as store:
            answer = await store.add([_line("k", 6, 5)])
            assert (answer.ok, answer.retry_after) == (False, None)
            assert (await store.add([_line("zero", 1, 0)])).retry_after is None

    async def test_a_window_slides_and_never_holds_more_than_its_limit(self) -> None:
        async with self.open_store() as store:
            window = self.tick * 8
            line = Amount(key="k", amount=1, limit=3, window=window)
            passed: list[float] = []
            for _ in range(24):
                if (await store.add([line])).ok:
                    passed.append(await store.now())
                await self.advance(self.tick / 2)
            margin = 0.02 if self.tick < 1 else 0.0
            for first, fourth in zip(passed, passed[3:], strict=False):
                assert fourth - first >= window - margin, "more than the limit passed in one window"
            assert len(passed) > 3, "the window never let go of a charge"

    async def test_after_retry_after_a_charge_fits(self) -> None:
        async with self.open_store() as store:
            line = Amount(key="k", amount=1, limit=1, window=self.tick * 2)
            await store.add([line])
            answer = await store.add([line])
            assert answer.retry_after is not None
            await self.advance(answer.retry_after + self.tick / 10)
            assert (await store.add([line])).ok

    async def test_a_counter_is_gone_when_it_lasts_no_longer_whatever_its_window(self) -> None:
        async with self.open_store() as store:
            for refills in (False, True):
                short = Amount(key="k", amount=1, limit=1, window=LONG, refills=refills, lasts=self.tick * 2)
                long = Amount(key="l", amount=1, limit=1, window=LONG, refills=refills, lasts=LONG)
                assert (await store.add([short, long])).ok
                assert not (await store.add([short])).ok
                await self.advance(self.tick * 3)
                assert (await store.add([short])).ok, "a counter outlives the time that it lasts"
                assert not (await store.add([long])).ok

    async def test_charges_and_values_do_not_disturb_each_other(self) -> None:
        async with self.open_store() as store:
            await store.add([_line("k", 1, 5)])
            await store.put("k", b"1", LONG)
            assert (await store.add([_line("k", 1, 5)])).used == (2,)
            assert await store.take("k") == b"1"
            assert (await store.add([_line("k", 0, 5)])).used == (2,)

    async def test_no_two_counters_are_ever_one(self) -> None:
        async with self.open_store() as store:
            for key in HOSTILE:
                assert (await store.add([_line(key, 1, 1)])).ok, repr(key)

    async def test_a_bucket_holds_its_limit_and_is_refilled_evenly(self) -> None:
        async with self.open_store() as store:
            window = self.tick * 8
            line = Amount(key="k", amount=1, limit=4, window=window, refills=True)
            began = await store.now()
            answers = [await store.add([line]) for _ in range(5)]
            assert [answer.ok for answer in answers] == [True] * 4 + [False]
            last = answers[-1]
            assert last.used == (4,)
            assert last.retry_after is not None
            assert 0 < last.retry_after <= window / 4
            passed = 4
            for _ in range(16):
                await self.advance(self.tick / 2)
                passed += (await store.add([line])).ok
            gone = await store.now() - began
            margin = 0.02 if self.tick < 1 else 0.0
            assert 4 < passed <= 4 + (gone + margin) / (window / 4)

    async def test_a_bucket_says_when_it_has_room(self) -> None:
        async with self.open_store() as store:
            line = Amount(key="k", amount=3, limit=4, window=self.tick * 4, refills=True)
            assert (await store.add([line])).ok
            answer = await store.add([line])
            assert (answer.ok, answer.used) == (False, (3,))
            assert answer.retry_after is not None
            await self.advance(answer.retry_after + self.tick / 10)
            assert (await store.add([line])).ok
            never = Amount(key="k", amount=5, limit=4, window=LONG, refills=True)
            assert (await store.add([never])).retry_after is None

    async def test_buckets_and_windows_are_charged_together_or_not_at_all_and_share_no_keys(self) -> None:
        async with self.open_store() as store:
            bucket = Amount(key="k", amount=1, limit=2, window=LONG, refills=True)
            assert (await store.add([bucket, _line("k", 1, 9)])).used == (1, 1)
            assert (await store.add([bucket, _line("k", 1, 1)])).ok is False
            look = Amount(key="k", amount=0, limit=2, window=LONG, refills=True)
            assert (await store.add([look, _line("k", 0, 9)])).used == (1, 1)
            assert (await store.add([bucket, bucket])).ok is False
            assert (await store.add([bucket])).ok
            assert (await store.add([bucket])).ok is False

    # --- scan -----------------------------------------------------------------------------------------------------

    async def test_scan_pages_through_every_key_once(self) -> None:
        async with self.open_store() as store:
            keys = {f"p:{number}" for number in range(25)}
            for key in keys:
                await store.put(key, key.encode(), LONG)
            await store.put("q:1", b"other", LONG)
            seen: list[tuple[str, Entry]] = []
            cursor: str | None = None
            for _ in range(100):
                page, cursor = await store.scan("p:", cursor, 4)
                assert len(page) <= 4
                seen += page
                if cursor is None:
                    break
            assert sorted(key for key, _ in seen) == sorted(keys)
            assert all(entry.value == key.encode() for key, entry in seen)
            assert seen[0][1].version == await _version(store, seen[0][0])

    async def test_scan_takes_a_prefix_as_it_is_written(self) -> None:
        async with self.open_store() as store:
            for key in HOSTILE:
                await store.put(key, b"1", LONG)
            for prefix in ("a*", "a?", "a[", "{", "a%", "a_", "a\\", "a\n", "e\u0301"):
                page, _ = await store.scan(prefix, None, 100)
                assert {key for key, _ in page} == {key for key in HOSTILE if key.startswith(prefix)}, repr(prefix)

    async def test_scan_of_nothing_is_empty(self) -> None:
        async with self.open_store() as store:
            assert await store.scan("p", None, 10) == ([], None)

    # --- time, the end --------------------------------------------------------------------------------------------

    async def test_its_clock_goes_forward(self) -> None:
        async with self.open_store() as store:
            first = await store.now()
            await self.advance(self.tick)
            assert await store.now() - first >= self.tick * 0.9

    async def test_it_says_whether_it_is_durable_and_shared(self) -> None:
        async with self.open_store() as store:
            assert isinstance(store.durable, bool)
            assert isinstance(store.shared, bool)
            assert isinstance(store, Store)

    async def test_a_closed_store_raises_and_never_guesses(self) -> None:
        async with self.open_store() as store:
            await store.put("k", b"1", LONG)
            await store.close()
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: store.get(["k"]),
                lambda: store.put("k", b"1", LONG),
                lambda: store.swap("k", None, b"1", LONG),
                lambda: store.take("k"),
                lambda: store.add([_line("k", 1, 1)]),
                lambda: store.scan("", None, 1),
            ]
            for call in calls:
                assert await _refuses(call), "a closed store raises StoreUnavailable"
            await store.close()


async def _refuses(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except StoreUnavailable:
        return True
    return False


def _values(entries: list[Entry | None]) -> list[bytes | None]:
    return [entry.value if entry is not None else None for entry in entries]


async def _version(store: Store, key: str) -> str:
    (entry,) = await store.get([key])
    assert entry is not None
    return entry.version


def _line(key: str, amount: int, limit: int) -> Amount:
    return Amount(key=key, amount=amount, limit=limit, window=LONG)
