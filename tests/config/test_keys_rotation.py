"""Rotation as docs/keys.md says it: two servers, one store, the shell's commands, and clients that see no error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
import pytest
import yaml
from asking import RULES, Person, asking_server
from fastmcp import Client
from redis_server import BINARIES, any_kind, running
from serving import serving

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, guard
from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import KeyRingError, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, mint, verify
from mcp_macaroon_middleware.tokens.keystore import read_key_file

pytestmark = pytest.mark.skipif(not BINARIES or os.name != "posix", reason="needs a Redis or Valkey server")

AUDIENCE = "office"


class House:
    """Two servers of one policy behind something that sends no request to a server which is being restarted."""

    def __init__(self, folder: Path, store: str) -> None:
        config = {
            "keys": "./keys.json",
            "audience": AUDIENCE,
            "store": store,
            "default": "deny",
            "tokens": {"variable": None},
            "audit": [{"sink": "log"}],
        }
        self.policy = folder / "policies.yaml"
        self.policy.write_text(yaml.safe_dump({"config": config, "policies": RULES}))
        self.policy.chmod(0o600)
        self.keys = folder / "keys.json"
        self.runtimes: dict[int, Runtime] = {}
        self.urls: dict[int, str] = {}
        self.busy = {0: 0, 1: 0}
        self._stacks: dict[int, AsyncExitStack] = {}

    async def start(self, number: int) -> None:
        stack = self._stacks[number] = AsyncExitStack()
        made = self.runtimes[number] = load_runtime(self.policy)
        stack.push_async_callback(made.close)
        server = asking_server(auth=MacaroonAuth(made))
        guard(server, made)
        self.urls[number] = await stack.enter_async_context(serving(server))

    async def stop(self, number: int) -> None:
        self.urls.pop(number)
        while self.busy[number]:  # noqa: ASYNC110 (what is under way is let go on, as a load balancer does)
            await asyncio.sleep(0.01)
        await self._stacks.pop(number).aclose()

    async def restart(self, number: int) -> None:
        await self.stop(number)
        await self.start(number)

    def mint(self, number: int, **more: Any) -> str:
        return mint(self.runtimes[number].keys, subject="alice", audience=AUDIENCE, **more)

    @asynccontextmanager
    async def client(self, number: int, token: str, **more: Any) -> AsyncIterator[Client[Any]]:
        self.busy[number] += 1
        try:
            async with Client(self.urls[number], auth=token, **more) as client:
                yield client
        finally:
            self.busy[number] -= 1

    async def call(self, number: int, token: str, **more: Any) -> str:
        async with self.client(number, token, **more) as client:
            return str((await client.call_tool("send", {"to": "bob"})).content[0].text)  # type: ignore[union-attr]

    async def tried(self, number: int, token: str, person: Person) -> str:
        """What a tool says that always fails."""
        async with self.client(number, token, elicitation_handler=person) as client:
            result = await client.call_tool("fails", {"to": "ann"}, raise_on_error=False)
            return str(result.content[0].text)  # type: ignore[union-attr]

    async def refuses(self, number: int, token: str) -> bool:
        """Whether a server answers nothing but 401 to a token."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {}}
        headers = {"accept": "application/json, text/event-stream", "authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient() as client:
            return (await client.post(self.urls[number], json=body, headers=headers)).status_code == 401

    async def ask(self, number: int, token: str, tool: str = "send", **arguments: Any) -> Any:
        async with self.client(number, token, elicitation_handler=Person()) as client:
            found = await client.session.call_tool(tool, arguments or {"to": "bob"}, allow_input_required=True)
            assert isinstance(found, mcp_types.InputRequiredResult)
            return found

    async def answer(self, number: int, token: str, question: Any, tool: str = "send", **arguments: Any) -> str:
        given: dict[str, Any] = {}
        for key, request in question.input_requests.items():
            fields = request.params.requested_schema["properties"]
            given[key] = mcp_types.ElicitResult(action="accept", content=dict.fromkeys(fields, "once"))
        async with self.client(number, token, elicitation_handler=Person()) as client:
            result = await client.session.call_tool(
                tool,
                arguments or {"to": "bob"},
                input_responses=given,
                request_state=question.request_state,
                allow_input_required=True,
            )
        if isinstance(result, mcp_types.InputRequiredResult):
            return "asked again"
        return ((result.meta or {}).get("mcp-macaroon") or {}).get("code") or result.content[0].text


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    assert main(["keys", "new", str(folder / "keys.json")]) == 0
    with running(any_kind()) as redis:
        made = House(folder, redis.url())
        try:
            for number in (0, 1):
                await made.start(number)
            yield made
        finally:
            for number in list(made.urls):
                await made.stop(number)


@asynccontextmanager
async def traffic(made: House, tokens: Callable[[], list[str]]) -> AsyncIterator[list[int]]:
    """A client that calls with every token, at whichever server takes requests just now; what it counts is calls."""
    calls, done = [0, 0], asyncio.Event()

    async def run() -> None:
        while not done.is_set():
            for token in tokens():
                for number in list(made.urls):
                    if number in made.urls:
                        async with made.client(number, token) as client:
                            await client.call_tool("ran", {})
                        calls[number] += 1
            await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    try:
        yield calls
    finally:
        done.set()
        await task


@pytest.mark.threat("A12", "D02")
async def test_keys_are_rotated_on_two_servers_and_no_client_sees_an_error(tmp_path: Path) -> None:
    async with house(tmp_path / "house") as made:
        keys = str(made.keys)
        tokens = [made.mint(0)]
        period = Person("period")
        assert await made.call(0, tokens[0], elicitation_handler=period) == "sent to bob"
        assert period.asked == 1
        ended = made.mint(0)
        await made.runtimes[0].bearers.revocations.revoke(  # type: ignore[union-attr]
            verify(made.runtimes[0].keys, ended, audience=AUDIENCE).id
        )
        async with traffic(made, lambda: list(tokens)) as calls:
            asked = [await made.ask(number, tokens[0], "fails", to="ann") for number in (0, 1)]
            held = await made.ask(0, tokens[0], "user", id=1)

            assert main(["keys", "rotate", keys, "--stage"]) == 0
            await made.restart(0)
            tokens.append(made.mint(0))
            assert "down" in await made.answer(0, tokens[0], asked[1], "fails", to="ann")
            await made.restart(1)
            tokens.append(made.mint(1))

            before = {number: made.runtimes[number].keys.current for number in (0, 1)}
            asked_before = await made.ask(1, tokens[0], "fails", to="eve")
            assert main(["keys", "rotate", keys, "--window", "1d"]) == 0
            await made.restart(0)
            assert made.runtimes[0].keys.current != before[0] == made.runtimes[1].keys.current
            tokens.append(made.mint(0))  # under the new key, for a server that does not sign with it yet
            asked_between = await made.ask(0, tokens[0], "fails", to="dan")
            assert "down" in await made.answer(0, tokens[0], asked_before, "fails", to="eve")
            assert "down" in await made.answer(1, tokens[0], asked_between, "fails", to="dan")
            assert "down" in await made.answer(1, tokens[0], asked[0], "fails", to="ann")
            assert "bob@example.com" in await made.answer(0, tokens[0], held, "user", id=1)
            await made.restart(1)
            assert made.runtimes[1].keys.current == made.runtimes[0].keys.current
            tokens.append(made.mint(1))
            seen = list(calls)
            while not all(n > old + len(tokens) for n, old in zip(calls, seen, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

            again = Person("deny")
            assert [await made.call(n, tokens[0], elicitation_handler=again) for n in (0, 1)] == ["sent to bob"] * 2
            assert again.asked == 0  # what was approved for a while before still is
            for number in (0, 1):
                assert await made.refuses(number, ended)  # what was revoked before still is


@pytest.mark.threat("A12")
async def test_after_its_retirement_a_key_counts_nowhere_and_nothing_else_is_forgotten(tmp_path: Path) -> None:
    async with house(tmp_path / "house") as made:
        old, period = made.mint(0), Person("period")
        assert await made.call(0, old, elicitation_handler=period) == "sent to bob"
        first = made.runtimes[0].keys.current
        for words in (["--stage"], ["--window", "1h"]):
            assert main(["keys", "rotate", str(made.keys), *words]) == 0
            for number in (0, 1):
                await made.restart(number)
        new, ended = made.mint(0), made.mint(1)
        part = verify(made.runtimes[0].keys, ended, audience=AUDIENCE).id
        await made.runtimes[0].bearers.revocations.revoke(part)  # type: ignore[union-attr]
        period = Person("period")
        assert "down" in await made.tried(1, new, period)
        assert period.asked == 1
        assert await made.call(1, old, elicitation_handler=Person("deny")) == "sent to bob"
        assert main(["keys", "retire", str(made.keys), first]) == 0
        for number in (0, 1):
            await made.restart(number)
            assert first not in made.runtimes[number].keys
            for token in (old, ended):
                assert await made.refuses(number, token)
            again = Person("deny")
            assert "down" in await made.tried(number, new, again)
            assert again.asked == 0


async def test_a_key_that_was_not_staged_is_refused_by_a_server_that_has_not_restarted(tmp_path: Path) -> None:
    """Why the procedure has two steps."""
    async with house(tmp_path / "house") as made:
        assert main(["keys", "rotate", str(made.keys)]) == 0
        await made.restart(0)
        assert await made.refuses(1, made.mint(0))
        assert not await made.refuses(1, made.mint(1))


@pytest.mark.threat("A12")
def test_a_key_ends_in_a_running_server_at_the_end_of_its_window(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    path = folder / "keys.json"
    assert main(["keys", "new", str(path)]) == 0
    old = read_key_file(path).ring()
    token = mint(old, subject="alice", audience=AUDIENCE)
    assert main(["keys", "rotate", str(path), "--window", "1h"]) == 0
    file = read_key_file(path)
    assert verify(file.ring(), token, audience=AUDIENCE).key_id == old.current
    secrets = {key.id: key.secret for key in file.keys}
    ends = datetime.now(UTC) + timedelta(seconds=0.4)
    ring = KeyRing(secrets, file.current.id, until={old.current: ends}, names=file.names)
    assert verify(ring, token, audience=AUDIENCE).key_id == old.current
    assert ring.verified
    while datetime.now(UTC) < ends:
        pass
    with pytest.raises(TokenInvalid) as caught:
        verify(ring, token, audience=AUDIENCE)  # though its signature has been remembered
    assert caught.value.code == "token_key_unknown"
    with pytest.raises(KeyRingError):
        ring.derive("token", AUDIENCE, old.current)
    assert ring.ids == (file.current.id,)
