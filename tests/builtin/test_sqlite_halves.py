"""A SQLite file has a log and an index beside it: what is taken away of them under a server is noticed, and costs no
limit and no approval. Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.sqlite_halves import CHANGED
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount

LINE = Amount(key="limit", amount=1, limit=3, window=86_400)

OTHER = """
import asyncio, json, sys
from pathlib import Path
from mcp_macaroon_middleware.builtin.sqlite_store import SQLiteStore
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount

async def main():
    store = SQLiteStore(Path(sys.argv[1]), "a")
    for line in sys.stdin:
        what, key = json.loads(line)
        try:
            if what == "add":
                said = (await store.add([Amount(key=key, amount=1, limit=3, window=86400)])).ok
            elif what == "put":
                await store.put(key, b"there", 86400)
                said = True
            else:
                said = await store.take(key) is not None
        except StoreUnavailable as error:
            said = error.code
        print(json.dumps(said), flush=True)
    await store.close()

asyncio.run(main())
"""


class Process:
    """Another process that uses the file, one operation at a time."""

    def __init__(self, path: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def do(self, what: str, key: str = "limit") -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([what, key]) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def kill(self) -> None:
        self._child.kill()


def parts(path: Path, *endings: str) -> list[Path]:
    return [Path(f"{path}{ending}") for ending in endings]


def remove(path: Path, *endings: str) -> None:
    for part in parts(path, *endings):
        part.unlink()


def replace(path: Path, *endings: str) -> None:
    for part in parts(path, *endings):
        made = part.with_name(part.name + ".new")
        made.write_bytes(os.urandom(part.stat().st_size))
        made.chmod(0o600)
        made.replace(part)


def swap_old(path: Path, *endings: str) -> None:
    """Puts another generation of the very same files in their place."""
    for part in parts(path, *endings):
        made = part.with_name(part.name + ".old")
        shutil.copyfile(part, made)
        made.chmod(0o600)
        made.replace(part)


def cut(path: Path, *endings: str) -> None:
    for part in parts(path, *endings):
        os.truncate(part, 0)


def cut_in_half(path: Path, *endings: str) -> None:
    for part in parts(path, *endings):
        os.truncate(part, part.stat().st_size // 2)


HARMS = [remove, replace, swap_old, cut, cut_in_half]
ENDINGS = [("-wal", "-shm"), ("-wal",), ("-shm",)]


@pytest.mark.threat("R24")
@pytest.mark.parametrize("endings", ENDINGS, ids="".join)
@pytest.mark.parametrize("harm", HARMS)
def test_a_log_that_is_harmed_under_a_server_doubles_nothing(
    harm: Callable[..., None], endings: tuple[str, ...], tmp_path: Path
) -> None:
    """reports-policy B10."""
    path = tmp_path / "a.db"
    with Process(path) as first:
        assert [first.do("add") for _ in range(3)] == [True] * 3
        assert first.do("put", "grant") is True
        assert first.do("put", "used") is True
        assert first.do("take", "used") is True
        harm(path, *endings)
        with Process(path) as second:
            ends = [each.do("add") for _ in range(4) for each in (second, first)]
            assert True not in ends, "the limit was used up"
            mended = endings == ("-shm",) and harm in (cut, cut_in_half)  # by the second one, before the first looks
            assert mended or ends[1] == CHANGED, "the one under which it was harmed says so"
            assert ends[-2:] == [False, False], "both recover"
            taken = [each.do("take", key) for key in ("grant", "used") for each in (second, first, second)]
            assert taken.count(True) == 1, "what could be taken once was taken once"
            assert [each.do("add", "fresh") for each in (first, second, first, second)].count(True) == 3


@pytest.mark.threat("R24")
@pytest.mark.parametrize("endings", ENDINGS, ids="".join)
@pytest.mark.parametrize("harm", HARMS)
def test_nothing_is_lost_by_a_harmed_log_even_if_its_server_is_killed(
    harm: Callable[..., None], endings: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "a.db"
    with Process(path) as first:
        assert [first.do("add") for _ in range(3)] == [True] * 3
        harm(path, *endings)
        first.kill()
    with Process(path) as second:
        assert [second.do("add") for _ in range(3)] == [False] * 3


@pytest.mark.threat("R24")
@pytest.mark.parametrize(("harm", "how"), [(remove, "removed"), (replace, "replaced"), (cut, "cut")])
@pytest.mark.parametrize(("endings", "part"), [(("-wal",), "log"), (("-shm",), "index")])
async def test_a_harmed_log_is_an_event_once_and_service_returns(
    harm: Callable[..., None], how: str, endings: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    events: list[Any] = []
    path = tmp_path / "a.db"
    store = SQLiteStore(path, "a", event=lambda name, facts: events.append((name, dict(facts))))
    assert (await store.add([LINE])).ok
    harm(path, *endings)
    with pytest.raises(StoreUnavailable) as refused:
        await store.add([LINE])
    assert refused.value.code == CHANGED
    assert str(tmp_path) not in str(refused.value)
    assert [(await store.add([LINE])).ok for _ in range(3)] == [True, True, False]
    assert events == [(CHANGED, {"part": part, "how": how})]
    await store.close()


@pytest.mark.threat("R24")
async def test_a_file_that_is_replaced_under_a_server_is_an_event_too(tmp_path: Path) -> None:
    events: list[Any] = []
    path, old = tmp_path / "a.db", tmp_path / "old.db"
    store = SQLiteStore(path, "a", event=lambda name, facts: events.append((name, dict(facts))))
    shutil.copyfile(path, old)
    old.chmod(0o600)
    assert (await store.add([LINE])).ok
    old.replace(path)
    with pytest.raises(StoreUnavailable):
        await store.add([LINE])
    assert (await store.add([LINE])).ok
    assert events == [(CHANGED, {"part": "file", "how": "replaced"})]
    await store.close()


async def test_many_processes_and_operations_notice_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path, "a")
    with Process(path) as other:
        for number in range(30):
            assert (await store.add([Amount(key=str(number), amount=1, limit=3, window=60)])).ok
            assert other.do("put", str(number)) is True
    for _ in range(3):
        with Process(path) as other:
            assert other.do("put", "k") is True
        assert await asyncio.wait_for(store.take("k"), 5) == b"there"
    await store.close()
