"""Limits and approvals are exact, in one process and over several, on every store, in both protocols."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from asking import Person
from guarded import ERAS
from several import STORES, answered, client, fleet, gathered, outcome, question


async def together(urls: list[str], era: str, calls: int) -> list[str]:
    """The outcomes of so many calls at once, through two clients at each server."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(url, era)) for url in urls for _ in range(2)]
        return await gathered(*(outcome(clients[n % len(clients)], "work", number=n) for n in range(calls)))


@pytest.mark.threat("K01")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_of_50_calls_at_once_exactly_10_run_in_one_process(store: str, era: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store, count=1) as made:
        outcomes = await together(made.urls, era, 50)
        assert sorted(outcomes) == ["ok"] * 10 + ["rate_limited"] * 40
        assert sum(made.done.values()) == 10
        assert sorted(made.ends("work")) == ["denied"] * 40 + ["ok"] * 10


@pytest.mark.threat("K02")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("store", STORES)
async def test_of_50_calls_at_once_exactly_10_run_over_two_processes(store: str, era: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store) as made:
        outcomes = await together(made.urls, era, 50)
        assert sorted(outcomes) == ["ok"] * 10 + ["rate_limited"] * 40
        assert len(made.done) == 10
        assert sum(made.done.values()) == 10
        assert sorted(made.ends("work")) == ["denied"] * 40 + ["ok"] * 10


@pytest.mark.threat("FI9", "D01", "N07")
@pytest.mark.parametrize("store", STORES)
async def test_of_200_uses_of_one_approval_at_once_one_succeeds(store: str, tmp_path: Path) -> None:
    with fleet(tmp_path, store) as made:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(client(url, elicitation_handler=Person()))
                for url in made.urls
                for _ in range(2)
            ]
            asked = await question(clients[0])
            outcomes = await gathered(*(answered(clients[n % 4], asked) for n in range(200)))
        assert set(outcomes) <= {"ok", "grant_used", "approval_stale"}
        assert outcomes.count("ok") == 1
        assert made.done == {"send-bob": 1}
