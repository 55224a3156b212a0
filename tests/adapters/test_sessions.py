"""Who may answer, cancel, listen and end in a session of the older protocol: by the token line, and nobody else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastmcp import Context, FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.server.event_store import EventStore
from guarded import KEY, Guarded, runtime
from serving import listening
from sessions import CLIENT, HEAD, SOON, Raw, answer, bearer, note, rpc, session

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, guard
from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint

AUDIENCE = "mail"
TRANSPORTS = ("http", "sse")


@dataclass
class Bank:
    """A server with one tool that asks for approval, one that asks by itself, one that waits, and what ran."""

    ran: list[int] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    def server(self, auth: Any = None) -> FastMCP[Any]:
        made: FastMCP[Any] = FastMCP("bank", auth=auth)

        @made.tool
        def transfer(amount: int) -> str:
            self.ran.append(amount)
            return "done"

        @made.tool
        async def ask(ctx: Context) -> str:
            found = await ctx.elicit("how many?", response_type=int)
            return str(getattr(found, "data", found.action))

        @made.tool
        async def wait() -> str:
            self.began.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "waited"

        @made.tool
        def ping() -> str:
            return "pong"

        return made


@dataclass
class World:
    """A guarded bank, and tokens: alice's, two narrowed from it, one narrowed further, another minting, bob's."""

    bank: Bank
    guarded: Guarded
    tokens: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.tokens[name]


def world(rules: tuple[str, ...] = ("bf:transfer:tool_access:elicit", "bf:*:tool_access:allow")) -> World:
    made, records = runtime(rules, config={"tokens": {}, "audience": AUDIENCE})
    keys, bank = KeyRing.from_secret(KEY), Bank()
    server = bank.server(MacaroonAuth(made, StaticTokenVerifier({"oauth": {"client_id": "macaroon", "sub": "alice"}})))
    held = Guarded(server=server, guard=guard(server, made), records=records)
    alice = mint(keys, subject="alice", audience=AUDIENCE, expires=timedelta(hours=1))
    middle = attenuate(alice, "bf:*:tool_access:only:transfer:ask:wait:ping")
    return World(
        bank,
        held,
        {
            "wide": alice,
            "own": middle,
            "narrow": attenuate(middle, "bf:*:tool_access:only:ping"),
            "sibling": attenuate(alice, "bf:*:tool_access:only:ping"),
            "again": mint(keys, subject="alice", audience=AUDIENCE, expires=timedelta(hours=1)),
            "bob": mint(keys, subject="bob", audience=AUDIENCE, expires=timedelta(hours=1)),
            "oauth": "oauth",
        },
    )


ENTITLED = ("own", "wide")
OTHERS = ("narrow", "sibling", "again", "bob", "oauth")


async def unknown(raw: Raw, token: str, message: Any) -> tuple[int, str]:
    """How the transport answers for a session that there is not."""
    lost = Raw(raw.http, raw.url, {"mcp-session-id": "0" * 32} if raw.headers else {})
    if not raw.headers:
        lost.url = raw.url.partition("session_id=")[0] + "session_id=" + "0" * 32
    response = await lost.post(token, message)
    return response.status_code, response.text


def forged(number: Any) -> dict[str, Any]:
    """Everything that could stand for an answer to a question."""
    return {
        "answer": answer(number),
        "text id": answer(str(number)),
        "spaced id": answer(f" {number}"),
        "error": {"jsonrpc": "2.0", "id": number, "error": {"code": 1, "message": "no"}},
        "duplicate keys": f'{{"jsonrpc":"2.0","id":999,"result":{{}},"id":{number}}}'.encode(),
        "progress": note("progress", progressToken=number, progress=1),
    }


@pytest.mark.threat("R01", "K01")
@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_answer_counts_only_from_the_line_of_the_call_attacks_h5(transport: str, who: str) -> None:
    """attacks H5: a narrowed token answered for the wider one."""
    there = world()
    async with session(there.guarded.server, transport, there["own"]) as raw:
        await raw.call(there["own"], rpc(5, "tools/call", name="transfer", arguments={"amount": 99}))
        asked = await raw.next("elicitation/create")
        for name, message in forged(asked["id"]).items():
            got = await raw.post(there[who], message)
            lost = await unknown(raw, there[who], message)
            assert (got.status_code, got.text) == lost, name
        assert there.bank.ran == []

        field_ = next(iter(asked["params"]["requestedSchema"]["properties"]))
        options = json.dumps(asked["params"]["requestedSchema"]["properties"][field_])
        chosen = next(word for word in ("once", "allow_once", "this_call") if f'"{word}"' in options)
        content = {"action": "accept", "content": {field_: chosen}}
        taken = await raw.post(there["own"], {"jsonrpc": "2.0", "id": asked["id"], "result": content})
        assert taken.status_code == 202, "the owner's question is still open"
        await raw.next()
    assert there.bank.ran == [99]


@pytest.mark.threat("R01")
@pytest.mark.parametrize("who", ENTITLED)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_same_and_a_wider_token_answer_for_a_component_too(transport: str, who: str) -> None:
    there = world()
    async with session(there.guarded.server, transport, there["wide"]) as raw:
        await raw.call(there["own"], rpc(5, "tools/call", name="ask", arguments={}))
        asked = await raw.next("elicitation/create")
        refused = await raw.post(
            there["sibling"], {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
        )
        assert refused.status_code == 404
        content = {"action": "accept", "content": {"value": 7}}
        await raw.post(there[who], {"jsonrpc": "2.0", "id": asked["id"], "result": content})
        assert "7" in json.dumps((await raw.next())["result"])


@pytest.mark.threat("R01")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_sub_agent_answers_its_own_question_and_not_its_parents(transport: str) -> None:
    there = world()
    async with session(there.guarded.server, transport, there["wide"]) as raw:
        await raw.call(there["wide"], rpc(5, "tools/call", name="ask", arguments={}))
        parents = await raw.next("elicitation/create")
        await raw.call(there["own"], rpc(6, "tools/call", name="ask", arguments={}))
        own = await raw.next("elicitation/create")
        content = {"action": "accept", "content": {"value": 7}}
        no = await raw.post(there["own"], {"jsonrpc": "2.0", "id": parents["id"], "result": content})
        yes = await raw.post(there["own"], {"jsonrpc": "2.0", "id": own["id"], "result": content})
        assert (no.status_code, yes.status_code) == (404, 202)
        assert (await raw.next())["id"] == 6


@pytest.mark.threat("R01")
@pytest.mark.parametrize("who", [*OTHERS, *ENTITLED])
@pytest.mark.parametrize("number", [5, "5", "five", "5 "])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cancellation_is_held_to_the_token_of_its_call(transport: str, number: Any, who: str) -> None:
    there = world()
    async with session(there.guarded.server, transport, there["wide"]) as raw:
        await raw.call(there["own"], rpc(number, "tools/call", name="wait", arguments={}))
        await asyncio.wait_for(there.bank.began.wait(), 5)
        message = note("cancelled", requestId=number)
        got = await raw.post(there[who], message)
        if who in ENTITLED:
            assert got.status_code == 202
            await asyncio.wait_for(there.bank.cancelled.wait(), 5)
        else:
            assert (got.status_code, got.text) == await unknown(raw, there[who], message)
            assert (await raw.post(there["own"], note("cancelled", requestId=number))).status_code == 202
            await asyncio.wait_for(there.bank.cancelled.wait(), 5)


@pytest.mark.threat("R01")
@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("number", [5, "5", " 5", "_GET_stream"])
async def test_nobody_takes_over_the_stream_of_another_call_or_of_the_session(number: Any, who: str) -> None:
    """A request opens a stream for its id, and the transport sends what is meant for the id there."""
    there = world()
    async with session(there.guarded.server, "http", there["own"]) as raw:
        await raw.call(there["own"], rpc(5, "tools/call", name="wait", arguments={}))
        await asyncio.wait_for(there.bank.began.wait(), 5)
        got = await raw.post(there[who], rpc(number, "tools/call", name="ping", arguments={}))
        assert got.status_code == 404
        assert not there.bank.cancelled.is_set()


@pytest.mark.threat("R01")
@pytest.mark.parametrize("who", [*OTHERS, *ENTITLED])
@pytest.mark.parametrize("method", ["GET", "resumed", "DELETE"])
async def test_a_stream_and_the_end_are_held_to_who_began_the_session(method: str, who: str) -> None:
    there = world()
    async with session(there.guarded.server, "http", there["own"], event_store=EventStore()) as raw:
        again = {"last-event-id": "0"} if method == "resumed" else {}
        verb = "GET" if method == "resumed" else method
        status, text = await raw.status(verb, there[who], **again)
        if who in ENTITLED:
            assert status == 200
        else:
            lost = Raw(raw.http, "/mcp", {"mcp-session-id": "0" * 32})
            assert (status, text) == await lost.status(verb, there[who], **again)
            assert (await raw.post(there["own"], rpc(9, "ping"))).status_code == 200, "the session goes on"


@pytest.mark.threat("R01")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_requests_go_on_from_everything_narrowed_from_one_token(transport: str) -> None:
    there = world()
    async with session(there.guarded.server, transport, there["own"]) as raw:
        for number, who in enumerate(("own", "wide", "narrow", "sibling")):
            got = await raw.post(
                there[who], rpc(7 if transport == "http" else number, "tools/call", name="ping", arguments={})
            )
            assert got.status_code in (200, 202), who
        for who in ("again", "bob", "oauth"):
            assert (await raw.post(there[who], rpc(8, "ping"))).status_code == 404, who


@pytest.mark.threat("R01")
async def test_another_providers_refreshed_credential_goes_on() -> None:
    there = world()
    other = there.guarded.server.auth.other  # type: ignore[union-attr]
    other.tokens["fresh"] = {"client_id": "macaroon", "sub": "alice", "scopes": []}
    async with session(there.guarded.server, "http", "oauth") as raw:
        await raw.call("oauth", rpc(5, "tools/call", name="ask", arguments={}))
        asked = await raw.next("elicitation/create")
        assert (await raw.post(there["wide"], answer(asked["id"]))).status_code == 404
        content = {"action": "accept", "content": {"value": 7}}
        assert (await raw.post("fresh", {"jsonrpc": "2.0", "id": asked["id"], "result": content})).status_code == 202
        assert (await raw.next())["id"] == 5
        assert (await raw.status("DELETE", "fresh"))[0] == 200


@pytest.mark.threat("R01")
@pytest.mark.parametrize("shape", ["batch", "chunked", "huge", "late"])
async def test_the_shape_of_a_body_makes_no_difference(shape: str) -> None:
    there = world()
    async with session(there.guarded.server, "http", there["own"]) as raw:
        await raw.call(there["own"], rpc(5, "tools/call", name="transfer", arguments={"amount": 1}))
        asked = await raw.next("elicitation/create")
        message = answer(asked["id"])
        body = json.dumps(message).encode()
        if shape == "batch":
            got = await raw.post(there["narrow"], [message, rpc(8, "ping")])
        elif shape == "chunked":

            async def parts() -> Any:
                for at in range(0, len(body), 7):
                    yield body[at : at + 7]

            got = await raw.http.post("/mcp", content=parts(), headers=raw._as(there["narrow"]))
        elif shape == "huge":
            got = await raw.post(there["narrow"], body + b" " * 5_000_000)
        else:
            got = await raw.post(there["narrow"], answer(asked["id"] + 1))
        assert got.status_code == (413 if shape == "huge" else 404)
        assert there.bank.ran == []


async def test_json_responses_and_stateless_servers_answer_as_before() -> None:
    for app in ({"json_response": True}, {"stateless_http": True}):
        there = world()
        async with (
            listening(there.guarded.server.http_app(**app)) as origin,
            httpx2.AsyncClient(base_url=origin, timeout=SOON) as http,
        ):
            begun = await http.post("/mcp", json=rpc(0, "initialize", **CLIENT), headers=HEAD | bearer(there["own"]))
            assert begun.status_code == 200
            kept = {"mcp-session-id": begun.headers["mcp-session-id"]} if "json_response" in app else {}
            call = rpc(1, "tools/call", name="ping", arguments={})
            got = await http.post("/mcp", json=call, headers=HEAD | bearer(there["narrow"]) | kept)
            assert got.status_code == 200
            assert "pong" in got.text


@pytest.mark.threat("R01")
async def test_what_did_not_count_is_in_the_audit_log() -> None:
    there = world()
    async with session(there.guarded.server, "http", there["own"]) as raw:
        await raw.post(there["narrow"], answer(1))
        await raw.status("DELETE", there["narrow"])
    told = [each["what"] for each in there.guarded.records if each["event"] == "message_refused"]
    assert told == ["answer", "stream"]


@pytest.mark.threat("R01")
@pytest.mark.parametrize("who", OTHERS)
async def test_in_todays_protocol_another_token_completes_no_question(who: str) -> None:
    """The question is the call's own result there, and its state is bound to who was asked."""
    there = world()
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    head = HEAD | {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "transfer"}
    async with (
        listening(there.guarded.server.http_app(json_response=True)) as origin,
        httpx2.AsyncClient(base_url=origin, timeout=SOON) as http,
    ):

        async def call(token: str, **more: Any) -> Any:
            message = rpc(1, "tools/call", name="transfer", arguments={"amount": 9}, _meta=meta, **more)
            return (await http.post("/mcp", json=message, headers=head | bearer(token))).json()

        asked = (await call(there["own"]))["result"]
        assert asked["resultType"] == "input_required"
        ((key, question),) = asked["inputRequests"].items()
        field_, schema = next(iter(question["params"]["requestedSchema"]["properties"].items()))
        option = next(each["const"] for each in schema["oneOf"] if "once" in each["const"])
        given = {key: {"action": "accept", "content": {field_: option}}}
        repeat = {"requestState": asked["requestState"], "inputResponses": given}

        await call(there[who], **repeat)
        assert there.bank.ran == []
        await call(there["own"], **repeat)
        assert there.bank.ran == [9]
