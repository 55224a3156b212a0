"""Any server of a fleet takes any leg: a question of one is answered at another, what one revokes counts at all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import Person
from fastmcp import Client
from guarded import ERAS
from mcp.shared.exceptions import MCPError
from several import STORES, Fleet, answered, client, fleet, gathered, outcome, question

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonClientAuth
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint

USED = ("grant_used", "approval_stale")
"""What is said of a leg that was taken: here, or at another server, which leaves no trace of it."""


@asynccontextmanager
async def pair(made: Fleet, **options: Any) -> AsyncIterator[tuple[Client[Any], Client[Any]]]:
    """A client at each of two servers."""
    options.setdefault("elicitation_handler", Person())
    async with client(made.urls[0], **options) as first, client(made.urls[1], **options) as second:
        yield first, second


@pytest.mark.threat("N07", "D01")
@pytest.mark.parametrize("store", STORES)
async def test_every_leg_may_go_to_another_server(store: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store) as made:
        async with pair(made) as (first, second):
            asked = await question(first)
            assert await answered(second, asked) == "ok"
            assert await answered(first, asked) in USED
            assert made.done == {"send-bob": 1}
            held = await question(first, "user", id=7)
            assert made.done["user-7"] == 1
            assert await answered(second, held, "user", id=7) == "ok"
            assert await answered(first, held, "user", id=7) in USED
            assert made.done["user-7"] == 1
            no = await question(first, to="dave")
            assert await answered(second, no, says="deny", to="dave") == "declined"
            assert await outcome(first, "send", to="dave") == "declined"
            assert "send-dave" not in made.done
            period = await question(second, to="carol")
            assert await answered(first, period, says="period", to="carol") == "ok"
            assert await outcome(second, "send", to="carol") == "ok"
            outcomes = [await outcome((first, second)[n % 2], "work", number=n) for n in range(12)]
            assert outcomes == ["ok"] * 10 + ["rate_limited"] * 2


@pytest.mark.threat("B13", "N07")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("store", STORES)
async def test_what_is_revoked_at_one_server_is_refused_at_every_other_at_the_next_call(
    store: str, era: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, store) as made:
        parent = mint(KeyRing.from_secret(made.key), subject="alice", audience="fleet")
        child = attenuate(parent, "bf:*:tool_access:only:free")
        auth = MacaroonClientAuth(child)
        async with client(made.urls[0], era, auth=auth) as first, client(made.urls[1], era, auth=auth) as second:
            assert await outcome(first, "free", number=1) == "ok"
            assert await outcome(second, "free", number=2) == "ok"
            await asyncio.to_thread(revoke, made, parent)
            for at in (first, second):
                with pytest.raises(MCPError):  # 401: the credential itself counts no more
                    await outcome(at, "free", number=3)
        assert made.done == {"free-1": 1, "free-2": 1}


def revoke(made: Fleet, token: str) -> None:
    """As an operator does, from a process of his own, with a server's own file."""
    command = [sys.executable, "-m", "mcp_macaroon_middleware", "token", "revoke", "--config", str(made.files[0])]
    environment = {**os.environ, "FLEET_KEY": made.key}
    done = subprocess.run(command, input=token, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.threat("N07")
@pytest.mark.parametrize("store", STORES)
async def test_nothing_begins_once_a_revocation_has_returned(store: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store) as made:
        token = mint(KeyRing.from_secret(made.key), subject="alice", audience="fleet")
        auth = MacaroonClientAuth(token)
        async with client(made.urls[0], auth=auth) as first, client(made.urls[1], auth=auth) as second:
            revoked = asyncio.Event()
            late: set[str] = set()

            async def calls(at: Client[Any], numbers: Iterator[int], going: asyncio.Event) -> None:
                """Calls without a pause; three of them begin once the revocation has returned."""
                left = 3
                while left:
                    number = next(numbers)
                    if revoked.is_set():
                        left -= 1
                        late.add(f"free-{number}")
                    with contextlib.suppress(Exception):  # 401: the credential itself counts no more
                        if await outcome(at, "free", number=number) == "ok":
                            going.set()

            begun = [asyncio.Event(), asyncio.Event()]
            numbers = itertools.count(1)
            running = [
                asyncio.create_task(calls(at, numbers, going)) for at, going in zip((first, second), begun, strict=True)
            ]
            await gathered(*(going.wait() for going in begun))
            await asyncio.to_thread(revoke, made, token)
            revoked.set()
            await gathered(*running)
        assert len(late) == 6
        assert len(made.done) >= 2, "calls ran before"
        assert not late & set(made.done), "and none that began after it"
        assert set(made.done.values()) == {1}
