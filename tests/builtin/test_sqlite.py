"""The `sqlite` store: the suite, several processes on one file, kills, full and damaged files, clocks that are set."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin import sqlite_file
from mcp_macaroon_middleware.builtin.sqlite_opening import prepare
from mcp_macaroon_middleware.builtin.sqlite_store import TYPE, SQLiteSettings, SQLiteStore
from mcp_macaroon_middleware.errors import PluginError, StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount, Store, StoreContext
from mcp_macaroon_middleware.testing import StoreContract


class TestSQLiteStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store]:
        store = SQLiteStore(self.folder / "state.db", "mail")
        yield store
        await store.close()

    @asynccontextmanager
    async def open_peer(self, store: Store) -> AsyncIterator[Store]:
        peer = SQLiteStore(self.folder / "state.db", "mail")
        yield peer
        await peer.close()


@asynccontextmanager
async def opened(path: Path, audience: str = "mail", **settings: Any) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, audience, SQLiteSettings(**settings))
    yield store
    await store.close()


def contents(path: Path) -> bytes:
    return path.read_bytes()


def replaced(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.chmod(0o600)
    aside.replace(path)


def emptied(folder: Path) -> None:
    for left in folder.iterdir():
        left.unlink()


def size(path: Path) -> int:
    return path.stat().st_size


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(script: str, path: Path) -> str:
    """What a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- several processes ------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, json, sys
from pathlib import Path
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.plugin import Amount

async def main(path, what, count):
    store = SQLiteStore(Path(path), "mail")
    await store.now()
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "take":
        found = await asyncio.gather(*(store.take("grant") for _ in range(count)))
        won = sum(value is not None for value in found)
    elif what == "add":
        line = Amount(key="limit", amount=1, limit=10, window=600.0)
        won = sum(answer.ok for answer in await asyncio.gather(*(store.add([line]) for _ in range(count))))
    else:
        won = sum(await asyncio.gather(*(store.swap("k", None, b"1", 600.0) for _ in range(count))))
    print(won, flush=True)
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.threat("FI9", "K02", "N07")
@pytest.mark.parametrize(("what", "count", "expected"), [("take", 100, 1), ("add", 25, 10), ("swap", 100, 1)])
async def test_over_two_processes_each_thing_happens_as_often_as_it_may(
    what: str, count: int, expected: int, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await store.put("grant", b"1", 600)
    pair = [started(CHILD, path, what, count) for _ in range(2)]
    for child in pair:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    won = 0
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in pair:
        out, _ = await asyncio.to_thread(child.communicate, timeout=30)
        won += int(out)
        assert child.returncode == 0
    assert won == expected


WRITER = """
import asyncio, sys
from pathlib import Path
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.plugin import Amount

async def main(path):
    store = SQLiteStore(Path(path), "mail")
    for number in range(1_000_000):
        await asyncio.gather(
            store.put(f"k{number}", str(number).encode() * 50, 600.0),
            store.add([Amount(key="n", amount=1, limit=10**9, window=600.0)]),
        )
        print(number, flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.threat("D09", "FI13")
async def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """What was acknowledged outlives a machine that stops, not only a process: `synchronous=FULL`, in a WAL."""
    prepare(tmp_path / "state.db")
    file = sqlite_file.SQLiteFile(tmp_path / "state.db", "mail", timeout=1.0, max_bytes=1 << 20)
    for _ in range(2):
        file.begin(writes=True)
        assert file._link is not None
        assert file._link.execute("PRAGMA synchronous").fetchone() == (2,)
        assert file._link.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        file.put("k", b"1", 60.0)
        file.commit(writes=True)
        file.close()  # the next transaction opens it anew


@pytest.mark.threat("K07", "FI13")
async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    prepare(path)
    for _ in range(3):
        child = started(WRITER, path)
        assert child.stdout is not None
        for _ in range(40):
            last = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        more = child.communicate(timeout=10)[0].split()
        last = int(more[-1]) if more else last
        async with opened(path) as store:
            found = await store.get([f"k{number}" for number in range(last + 1)])
            assert all(entry is not None for entry in found)
            counted = (await store.add([Amount(key="n", amount=0, limit=10**9, window=600.0)])).used[0]
            assert counted >= last + 1
        link = sqlite3.connect(path)
        assert link.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        link.close()


async def test_a_process_that_was_forked_opens_the_file_for_itself(tmp_path: Path) -> None:
    script = """
import asyncio, os, sys
from pathlib import Path
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore

store = SQLiteStore(Path(sys.argv[1]), "mail")
asyncio.run(store.put("k", b"parent", 600.0))
child = os.fork()
if child == 0:
    (entry,) = asyncio.run(store.get(["k"]))
    asyncio.run(store.put("k", entry.value + b" child", 600.0))
    os._exit(0)
_, status = os.waitpid(child, 0)
(entry,) = asyncio.run(store.get(["k"]))
print(status, entry.value.decode())
asyncio.run(store.close())
"""
    assert await asyncio.to_thread(run, script, tmp_path / "s.db") == "0 parent child\n"


@pytest.mark.threat("N08")
async def test_servers_of_other_names_share_nothing_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    line = Amount(key="n", amount=1, limit=1, window=60.0)
    async with opened(path, "mail") as mail, opened(path, "bank") as bank:
        await mail.put("k", b"mail", 60)
        assert await bank.get(["k"]) == [None]
        assert await bank.take("k") is None
        assert (await bank.scan("", None, 10))[0] == []
        assert (await mail.add([line])).ok
        assert (await bank.add([line])).ok
        assert await mail.take("k") == b"mail"


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("N03")
async def test_a_file_that_another_process_holds_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path, timeout=0.3) as store:
        await store.put("k", b"1", 60)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.put("k", b"2", 60)
        assert time.monotonic() - began < 2
        (entry,) = await store.get(["k"])
        assert entry is not None
        assert entry.value == b"1"
        holder.execute("ROLLBACK")
        holder.close()
        await asyncio.sleep(0.3)
        await store.put("k", b"3", 60)


@pytest.mark.threat("N03")
async def test_no_more_than_so_many_operations_wait(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path, timeout=0.5, max_waiting=5) as store:
        await store.now()
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        tasks = [asyncio.ensure_future(store.put(f"k{number}", b"", 60)) for number in range(20)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, StoreUnavailable) for each in done)
        assert sum("too many" in str(each) for each in done) == 15
        holder.execute("ROLLBACK")
        holder.close()


@pytest.mark.threat("FI8")
async def test_an_operation_that_was_given_up_before_it_began_never_happens(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path, timeout=5.0) as store:
        await store.put("grant", b"1", 60)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(store.take("grant"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        holder.execute("ROLLBACK")
        holder.close()
        assert await store.take("grant") == b"1"


async def filled(store: Store) -> int:
    """How many values were taken before there was no room."""
    for number in range(2000):
        try:
            await store.put(f"k{number}", os.urandom(4000), 3 if number % 2 else 600)
        except StoreUnavailable as error:
            assert "full" in str(error)  # noqa: PT017 - the number is needed
            return number
    raise AssertionError("it grew without end")


@pytest.mark.threat("N05", "FI23")
async def test_a_full_file_refuses_what_is_new_and_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path, max_bytes=1 << 20) as store:
        kept = await filled(store)
        assert kept > 100
        assert size(path) <= 2 << 20
        found = await store.get([f"k{number}" for number in range(0, kept, 2)])
        assert all(entry is not None for entry in found)
        await asyncio.sleep(3.1)
        await store.put("again", os.urandom(4000), 600)


@pytest.mark.threat("FI11")
async def test_a_disk_without_room_is_an_error_and_service_returns_with_the_room(tmp_path: Path) -> None:
    script = """
import asyncio, os, resource, sys
from pathlib import Path
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.errors import StoreUnavailable
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    store = SQLiteStore(Path(sys.argv[1]), "mail")
    await store.put("before", b"1", 600.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    refused = 0
    for number in range(100):
        try:
            await store.put(f"k{number}", os.urandom(8000), 600.0)
        except StoreUnavailable:
            refused += 1
    (entry,) = await store.get(["before"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.put("after", b"1", 600.0)
    print(refused > 0, entry is not None, (await store.take("after")).decode())
    await store.close()

asyncio.run(main())
"""
    assert await asyncio.to_thread(run, script, tmp_path / "s.db") == "True True 1\n"


@pytest.mark.threat("FI7")
async def test_a_file_that_is_damaged_is_an_error_and_one_that_is_put_back_serves_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await store.put("k", b"1", 600)
    good = contents(path)
    async with opened(path) as store:
        assert await store.get(["k"]) != [None]
        replaced(path, os.urandom(len(good)))
        for why in ("replaced", "damaged", "damaged"):
            with pytest.raises(StoreUnavailable, match=why) as refused:
                await store.get(["k"])
            assert str(tmp_path) not in str(refused.value)
        replaced(path, good)
        assert await store.get(["k"]) != [None]


@pytest.mark.threat("FI7")
async def test_a_record_that_this_store_did_not_write_is_an_error_for_that_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    line = Amount(key="n", amount=1, limit=5, window=60.0)
    async with opened(path) as store:
        await store.add([line])
        await store.put("k", b"1", 60)
        link = sqlite3.connect(path)
        link.execute("UPDATE counters SET state = 'nonsense'")
        link.commit()
        link.close()
        with pytest.raises(StoreUnavailable):
            await store.add([line])
        both = await asyncio.gather(store.add([line]), store.take("k"), return_exceptions=True)
        assert isinstance(both[0], StoreUnavailable)
        assert both[1] == b"1"


@pytest.mark.threat("FI7")
@pytest.mark.parametrize(
    "damage", ["UPDATE clock SET seen = 'x'", "UPDATE clock SET seen = 9e999, ticks = 0", "DELETE FROM clock"]
)
async def test_a_clock_that_is_damaged_is_an_error_at_once_and_one_that_is_mended_goes_on(
    damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"

    def change(*statements: str) -> None:
        link = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            link.execute(statement)
        link.close()

    async with opened(path, timeout=30.0) as store:
        await store.put("k", b"1", 600)
        change("CREATE TABLE kept AS SELECT * FROM clock", damage)
        began = time.monotonic()
        for work in (store.get(["k"]), store.put("k", b"2", 60), store.take("k")):
            with pytest.raises(StoreUnavailable, match="did not write"):
                await work
        assert time.monotonic() - began < 10
        change("DELETE FROM clock", "INSERT INTO clock SELECT * FROM kept", "DROP TABLE kept")
        (entry,) = await store.get(["k"])
        assert entry is not None
        assert entry.value == b"1"


@pytest.mark.threat("FI5", "FI20")
async def test_a_file_that_is_gone_is_never_made_anew_while_the_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await store.put("k", b"1", 600)
        emptied(tmp_path)
        with pytest.raises(StoreUnavailable, match="gone"):
            await store.get(["k"])
        with pytest.raises(StoreUnavailable, match="gone"):
            await store.put("k", b"2", 60)
        assert os.listdir(tmp_path) == []
        replaced(path, b"")
        with pytest.raises(StoreUnavailable, match="empty"):
            await store.get(["k"])


async def test_a_link_that_takes_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "other.db"
    prepare(other)
    before = contents(other)
    async with opened(path) as store:
        await store.put("k", b"1", 600)
        path.unlink()
        path.symlink_to(other)
        for work in (store.get(["k"]), store.put("k", b"2", 60)):
            with pytest.raises(StoreUnavailable, match="not a file any more"):
                await work
    assert contents(other) == before


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.threat("K06", "FI10")
async def test_a_wall_clock_that_is_set_revives_nothing_and_refills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    uptime, wall = [1000.0], [1_800_000_000.0]
    monkeypatch.setattr(sqlite_file, "ticks", lambda: uptime[0])
    monkeypatch.setattr(sqlite_file.time, "time", lambda: wall[0])
    line = Amount(key="n", amount=1, limit=1, window=600.0)
    async with opened(path) as store:
        assert (await store.add([line])).ok
        await store.put("grant", b"1", 300.0)
        wall[0] += 86_400
        uptime[0] += 1
    async with opened(path) as store:
        assert not (await store.add([line])).ok
        assert await store.get(["grant"]) != [None]
        wall[0] -= 2 * 86_400
        uptime[0] += 300
        assert await store.get(["grant"]) == [None]
        uptime[0] += 300
        assert (await store.add([line])).ok


@pytest.mark.threat("K06", "FI10")
async def test_after_a_start_of_the_machine_time_goes_on_and_never_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    uptime, wall, boot = [50_000.0], [1_800_000_000.0], ["first"]
    monkeypatch.setattr(sqlite_file, "ticks", lambda: uptime[0])
    monkeypatch.setattr(sqlite_file, "boot_id", lambda: boot[0])
    monkeypatch.setattr(sqlite_file.time, "time", lambda: wall[0])
    async with opened(path) as store:
        await store.put("k", b"1", 300.0)
        before = await store.now()
    uptime[0], boot[0], wall[0] = 10.0, "second", 1_800_000_000.0 - 7200
    async with opened(path) as store:
        assert await store.now() >= before
        assert await store.get(["k"]) != [None]
    uptime[0], boot[0], wall[0] = 10.0, "read only", 1_800_000_000.0 + 200
    async with opened(path) as store:
        await store.get(["k"])
        before = await store.now()
        wall[0] -= 150
        assert await store.now() >= before
    async with opened(path) as store:
        assert await store.now() >= before
    uptime[0], boot[0], wall[0] = 10.0, "third", 1_800_000_000.0 + 301
    async with opened(path) as store:
        assert await store.get(["k"]) == [None]


# --- growth -----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("P03")
async def test_what_has_ended_gives_its_room_back(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        for start in range(0, 20_000, 200):
            await asyncio.gather(*(store.put(f"k{start + number}", b"x" * 100, 0.5) for number in range(200)))
        await asyncio.sleep(0.6)
        for _ in range(400):
            await store.put("one", b"1", 60)
        link = sqlite3.connect(path)
        assert link.execute("SELECT count(*) FROM records").fetchone()[0] < 200
        link.close()
        assert size(path) < 8 << 20


@pytest.mark.threat("P03")
async def test_counters_that_have_ended_go_faster_than_new_ones_come(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    def lines(start: int, window: float) -> list[Amount]:
        return [Amount(key=f"k{start + number}", amount=1, limit=5, window=window) for number in range(1000)]

    async with opened(path, timeout=20.0) as store:
        for start in range(5):
            assert (await store.add(lines(1000 * start, 0.1))).ok
        await asyncio.sleep(0.2)
        for start in range(5, 8):
            assert (await store.add(lines(1000 * start, 600.0))).ok
        link = sqlite3.connect(path)
        assert link.execute("SELECT count(*) FROM counters").fetchone()[0] == 3000
        link.close()


@pytest.mark.threat("N11")
async def test_a_list_of_many_is_read_page_by_page_and_no_page_is_large(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path, timeout=20.0) as store:
        await store.put("g:000000", b"x", 600)
        for other in ("a", "g", "g;", "z"):
            await store.put(other, b"x", 600)
        link = sqlite3.connect(path)
        ((ends,),) = link.execute("SELECT max(ends) FROM records")
        rows = (("mail", f"g:{number:06}".encode(), b"x", "v", ends) for number in range(1, 100_000))
        link.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        link.commit()
        link.close()
        seen: list[str] = []
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            page, cursor = await store.scan("g:", cursor, 500)
            assert len(page) <= 500
            seen += [key for key, _ in page]
            pages += 1
        assert seen == [f"g:{number:06}" for number in range(100_000)]
        assert pages == 200


@pytest.mark.threat("N11")
async def test_a_page_of_large_values_ends_by_their_size(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db") as store:
        for number in range(7):
            await store.put(f"g:{number}", bytes(2 << 20), 600)
        sizes, cursor = [], None
        while not sizes or cursor is not None:
            page, cursor = await store.scan("g:", cursor, 100)
            sizes.append(len(page))
        assert sizes == [2, 2, 2, 1]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(PluginError, match="others"):
        prepare(path)
    path.chmod(0o600)
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(PluginError, match="cannot be opened"):
        prepare(tmp_path / "link.db")
    with pytest.raises(PluginError, match="cannot be opened"):
        prepare(tmp_path / "no" / "state.db")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PluginError):
        prepare(tmp_path / "pipe")


def test_a_file_of_another_program_or_of_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    link = sqlite3.connect(other)
    link.execute("CREATE TABLE theirs (x)")
    link.commit()
    link.close()
    other.chmod(0o600)
    before = other.read_bytes()
    with pytest.raises(PluginError, match="another program"):
        prepare(other)
    assert other.read_bytes() == before
    wal = tmp_path / "wal.db"
    link = sqlite3.connect(wal)
    link.execute("PRAGMA journal_mode = WAL")
    link.execute("CREATE TABLE theirs (x)")
    link.commit()
    wal.chmod(0o600)
    there = {name: contents(tmp_path / name) for name in ("wal.db", "wal.db-wal")}
    assert there["wal.db-wal"]
    with pytest.raises(PluginError, match="another program"):
        prepare(wal)
    assert {name: contents(tmp_path / name) for name in there} == there
    link.close()
    newer = tmp_path / "newer.db"
    prepare(newer)
    link = sqlite3.connect(newer)
    link.execute("PRAGMA user_version = 99")
    link.close()
    with pytest.raises(PluginError, match="schema 99"):
        prepare(newer)
    text = tmp_path / "text.db"
    text.write_text("not a database at all, but a text that is long enough to look at\n" * 20)
    text.chmod(0o600)
    with pytest.raises(PluginError, match="damaged"):
        prepare(text)


@pytest.mark.parametrize(
    "address", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://host/x.db", "sqlite:///x.db?mode=ro"]
)
def test_an_address_that_names_no_file_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="write"):
        TYPE.open(address, StoreContext(audience="mail", base=tmp_path))


async def test_a_relative_address_starts_from_the_policy_file(tmp_path: Path) -> None:
    store = TYPE.open("sqlite:///a%20b.db", StoreContext(audience="mail", base=tmp_path))
    assert repr(store) == "SQLiteStore('a b.db')"
    assert os.listdir(tmp_path) == ["a b.db"]
    await store.close()
    other = TYPE.open(f"sqlite:///{tmp_path}/absolute.db", StoreContext(audience="mail", base=Path("/nowhere")))
    assert "absolute.db" in os.listdir(tmp_path)
    await other.close()
    with pytest.raises(PluginError, match="audience"):
        TYPE.open("sqlite:///x.db", StoreContext(audience="", base=tmp_path))


async def test_a_store_is_used_from_several_event_loops_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db") as store:
        line = Amount(key="n", amount=1, limit=10, window=60.0)

        def elsewhere() -> int:
            async def run() -> int:
                return sum(answer.ok for answer in await asyncio.gather(*(store.add([line]) for _ in range(10))))

            return asyncio.run(run())

        won = await asyncio.gather(*(asyncio.to_thread(elsewhere) for _ in range(4)))
        assert sum(won) == 10
        assert json.loads(json.dumps(won)) == won
