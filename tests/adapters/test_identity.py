"""Who calls: from the credential of the connection, and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client, FastMCP
from fastmcp.server.auth import MultiAuth
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from guarded import ERAS, code_of, guarded, http, text_of, tokens


def who(**options: Any) -> FastMCP[Any]:
    """A server with one tool."""
    server: FastMCP[Any] = FastMCP("who", **options)

    @server.tool
    def call() -> str:
        return "called"

    return server


ALLOW = ["bf:call:tool_access:allow"]


def principal(made: Any) -> dict[str, Any]:
    """The principal of the last call."""
    found = [r for r in made.records.finals() if r["component"]["name"] == "call"]
    return found[-1]["principal"] | {"client": found[-1].get("client")}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("FI28")
async def test_an_in_memory_connection_is_local(era: str) -> None:
    made = guarded(who(), ALLOW)
    async with Client(made.server, mode=era, client_info=None) as client:
        assert await text_of(client, "call") == "called"
    assert principal(made) == {"kind": "local", "namespace": "local", "subject": "local", "client": None}


@pytest.mark.threat("FI28")
async def test_local_can_be_renamed_and_refused() -> None:
    made = guarded(who(), ALLOW, config={"identity": {"local": "me"}})
    async with Client(made.server) as client:
        assert await text_of(client, "call") == "called"
    assert principal(made)["subject"] == "me"
    made = guarded(who(), ALLOW, config={"identity": {"local": None}})
    async with Client(made.server) as client:
        assert await code_of(client, "call") == "unauthenticated"
    assert made.ends[-1] == ("call", "denied", "unauthenticated")


async def test_a_call_without_any_connection_is_nobody() -> None:
    made = guarded(who(), ALLOW)
    for known in (False, True):  # found anew, and a moment after somebody else has called it
        result = await made.server.call_tool("call", {})
        assert result.is_error, known
        assert (result.meta or {})["mcp-macaroon"]["code"] == "no_identity"
        async with Client(made.server) as client:
            assert await text_of(client, "call") == "called"


@pytest.mark.parametrize("era", ERAS)
async def test_http_without_a_credential_is_refused_unless_named(era: str) -> None:
    made = guarded(who(), ALLOW)
    async with http(made.server, era=era) as client:
        assert await code_of(client, "call") == "unauthenticated"
    made = guarded(who(), ALLOW, config={"identity": {"anonymous": "guest"}})
    async with http(made.server, era=era) as client:
        assert await text_of(client, "call") == "called"
    assert principal(made) == {"kind": "anonymous", "namespace": "local", "subject": "guest", "client": None}


@pytest.mark.parametrize("era", ERAS)
async def test_a_bearer_token_names_a_user_by_subject_issuer_and_tenant(era: str) -> None:
    server = who(auth=tokens(alice={"iss": "https://idp", "org": "acme"}))
    made = guarded(server, ALLOW, config={"identity": {"tenant": "org"}})
    async with http(server, "alice", era) as client:
        assert await text_of(client, "call") == "called"
    assert principal(made) == {
        "kind": "user",
        "namespace": "https://idp",
        "subject": "alice",
        "tenant": "acme",
        "client": "a client",
    }


async def test_without_an_issuer_the_provider_is_the_namespace() -> None:
    server = who(auth=tokens(alice={}))
    made = guarded(server, ALLOW)
    async with http(server, "alice") as client:
        assert await text_of(client, "call") == "called"
    assert principal(made)["namespace"] == "auth:StaticTokenVerifier"


@pytest.mark.threat("C02")
async def test_two_sources_with_one_subject_are_two_principals() -> None:
    def source(token: str) -> StaticTokenVerifier:
        return StaticTokenVerifier({token: {"client_id": "c", "subject": "alice", "sub": "alice", "scopes": []}})

    server = who(auth=MultiAuth(verifiers={"a": source("one"), "b": source("two")}))
    made = guarded(server, [*ALLOW, "bf:call:rate_limit:allow:1/hour"])
    seen = []
    for token in ("one", "two"):
        async with http(server, token) as client:
            assert await text_of(client, "call") == "called"
            seen.append(principal(made))
    assert seen[0]["namespace"] != seen[1]["namespace"]
    assert seen[0]["client"] == "c"


@pytest.mark.threat("K10")
async def test_two_tokens_clients_and_sessions_of_one_user_share_a_bucket() -> None:
    table = {
        f"token {number}": {"client_id": f"client {number}", "subject": "alice", "sub": "alice", "scopes": []}
        for number in range(3)
    }
    server = who(auth=StaticTokenVerifier(table))
    guarded(server, [*ALLOW, "bf:call:rate_limit:allow:2/hour"])
    codes = []
    for token in table:
        async with http(server, token, "legacy") as client:
            codes.append(await code_of(client, "call"))
    assert codes == [None, None, "rate_limited"]


@pytest.mark.threat("C05")
async def test_a_named_claim_that_is_absent_refuses() -> None:
    server = who(auth=tokens(alice={"email": "a@example.org"}, bob={}))
    made = guarded(server, ALLOW, config={"identity": {"claim": "email"}})
    async with http(server, "alice") as client:
        assert await text_of(client, "call") == "called"
    assert principal(made)["subject"] == "a@example.org"
    async with http(server, "bob") as client:
        assert await code_of(client, "call") == "claim_missing"


@pytest.mark.threat("C03")
async def test_a_token_without_a_subject_is_its_client() -> None:
    server = who(auth=StaticTokenVerifier({"robot": {"client_id": "the robot", "scopes": []}}))
    made = guarded(server, ALLOW)
    async with http(server, "robot") as client:
        assert await text_of(client, "call") == "called"
    assert principal(made) == {
        "kind": "client",
        "namespace": "auth:StaticTokenVerifier",
        "subject": "the robot",
        "client": "the robot",
    }


async def test_the_address_of_an_http_caller_is_recorded() -> None:
    server = who(auth=tokens(alice={}))
    made = guarded(server, ALLOW)
    async with http(server, "alice") as client:
        await client.call_tool("call", {})
    assert [r for r in made.records.finals() if r["component"]["name"] == "call"][-1]["address"]
