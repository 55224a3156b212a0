"""Tokens as credentials: over HTTP, on stdio and in memory, beside OAuth, narrowed, discharged, revoked."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
import pytest
from asking import Person
from fastmcp import Client, Context, FastMCP
from fastmcp.server.auth import AuthProvider, TokenVerifier
from guarded import ERAS, KEY, Guarded, code_of, guarded, http, policy, runtime, text_of, tokens
from serving import serving

from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, MacaroonClientAuth, MacaroonMiddleware, guard
from mcp_macaroon_middleware.adapters.fastmcp.stripping import _is_ours
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import BindError, ConfigError, StoreUnavailable
from mcp_macaroon_middleware.model import Principal
from mcp_macaroon_middleware.tokens import KeyRing, ThirdParty, attenuate, bind, discharge, mint, require, unmet
from mcp_macaroon_middleware.tokens import macaroons as raw

AUDIENCE = "mail"
RULES = [
    "bf:read_mail:tool_access:allow",
    "bf:send_mail:tool_access:allow",
    r"bf:resource=mail\://*:tool_access:allow",
    "bf:prompt=write:tool_access:allow",
]


def mail(auth: AuthProvider | None = None) -> FastMCP[Any]:
    """A small mail server."""
    server: FastMCP[Any] = FastMCP("mail", auth=auth)

    @server.tool
    def read_mail(id: int) -> dict[str, Any]:
        return {"id": id, "subject": "hello", "body": "secret", "email": "a@b"}

    @server.tool
    def send_mail(to: str) -> str:
        return f"sent to {to}"

    @server.tool
    def delete_mail(id: int) -> str:
        return "deleted"

    @server.resource("mail://{id}")
    def message(id: str) -> str:
        return f"mail {id}"

    @server.prompt
    def write(to: str) -> str:
        return f"write to {to}"

    return server


def accepting(
    rules: list[Any] | None = None, other: AuthProvider | None = None, **config: Any
) -> tuple[Guarded, Runtime]:
    """A guarded server that accepts tokens, over HTTP and here."""
    made, records = runtime(rules or RULES, config={"audience": AUDIENCE, "tokens": {}, **config})
    server = mail(MacaroonAuth(made, other))
    return Guarded(server=server, guard=guard(server, made), records=records), made


def token_of(made: Runtime, *caveats: str, subject: str = "alice", **more: Any) -> str:
    return mint(made.keys, subject=subject, audience=AUDIENCE, caveats=caveats, **more)


def meta(token: str | None = None, discharges: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a request on stdio brings."""
    given: dict[str, Any] = {} if token is None else {"mcp-macaroon/token": token}
    return given | ({"mcp-macaroon/discharges": list(discharges)} if discharges else {})


async def code_with(client: Client[Any], sent: Mapping[str, Any], tool: str, **arguments: Any) -> str | None:
    """The code of a call's refusal, `unknown` for an unknown tool; only this request brings what is sent."""
    params = mcp_types.CallToolRequestParams(name=tool, arguments=arguments, _meta=dict(sent))  # type: ignore[call-arg]
    result = await client.session.send_request(mcp_types.CallToolRequest(params=params), mcp_types.CallToolResult)
    code = ((result.meta or {}).get("mcp-macaroon") or {}).get("code")
    return code or ("unknown" if result.is_error else None)


async def refused_with_401(server: FastMCP[Any], token: str | None, era: str = "auto") -> bool:
    """Whether not even the handshake is answered."""
    app = server.http_app()
    method = "initialize" if era == "legacy" else "server/discover"
    headers = {"accept": "application/json, text/event-stream"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    transport = httpx2.ASGITransport(app=app)
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
        return (await client.post("/mcp", json=body, headers=headers)).status_code == 401


# --- a token over HTTP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_over_http_does_what_its_rules_and_the_servers_allow(era: str) -> None:
    served, made = accepting()
    narrow = attenuate(
        token_of(made, client="agent"), "bf:*:tool_access:only:read_*", "af:read_mail:field_access:deny:body"
    )
    async with http(served.server, narrow, era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["read_mail"]
        result = await client.call_tool("read_mail", {"id": 1})
        assert result.structured_content == {"id": 1, "subject": "hello", "email": "a@b"}
        assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
        with pytest.raises(Exception, match=r"not found|Unknown"):
            await client.read_resource("mail://1")
    record = served.records.finals()[-2]
    assert record["principal"] == {"kind": "user", "namespace": "", "subject": "alice"}
    assert record["client"] == "agent"
    assert len(record["token"]) == 2
    assert served.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_a_published_schema_lacks_what_the_token_withholds(era: str) -> None:
    made, _ = runtime(RULES[:1], config={"audience": AUDIENCE, "tokens": {}})
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))

    both = {"id": {"type": "integer"}, "body": {"type": "string"}}

    @server.tool(output_schema={"type": "object", "properties": both, "required": ["id", "body"]})
    def read_mail(id: int) -> dict[str, Any]:
        return {"id": id, "body": "secret"}

    guard(server, made)
    wide = token_of(made)
    narrow = attenuate(wide, "af:read_mail:field_access:deny:body")
    for token, fields in ((wide, {"id", "body"}), (narrow, {"id"}), (wide, {"id", "body"})):
        async with http(server, token, era) as client:
            (tool,) = await client.list_tools()
            assert set((tool.output_schema or {})["required"]) == fields
            assert set((await client.call_tool("read_mail", {"id": 1})).structured_content or {}) == fields


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("A01", "A10", "A11", "A12", "A17")
async def test_a_token_that_does_not_count_gets_401_and_a_record_of_the_reason(era: str) -> None:
    served, made = accepting()
    good = token_of(made)
    wrong = {
        "token_key_unknown": mint(KeyRing.from_secret(secrets.token_hex(32)), subject="alice", audience=AUDIENCE),
        "token_audience": mint(made.keys, subject="alice", audience="other"),
        "token_expired": mint(made.keys, subject="alice", audience=AUDIENCE, expires=timedelta(seconds=-1)),
        "token_signature": good[:-8] + ("A" * 8 if not good.endswith("A" * 8) else "B" * 8),
        "token_format": "mm_not a token",
        "token_too_large": "mm_" + "A" * 20_000,
    }
    for code, token in wrong.items():
        assert await refused_with_401(served.server, token, era), code
        refusals = [record for record in served.records if record["event"] == "token_refused"]
        assert code in ("token_signature", "token_key_unknown") or refusals[-1]["code"] == code
        assert token not in str(served.records)
    assert await refused_with_401(served.server, None, era)
    assert await refused_with_401(served.server, "an oauth token", era)


@pytest.mark.threat("A17")
async def test_a_401_says_nothing_but_that_the_token_is_invalid() -> None:
    served, made = accepting()
    app = served.server.http_app()
    transport = httpx2.ASGITransport(app=app)
    expired = mint(made.keys, subject="alice", audience=AUDIENCE, expires=timedelta(seconds=-1))
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        bodies = []
        for token in (expired, "mm_nonsense", "mm_" + "A" * 9000):
            response = await client.post("/mcp", json={}, headers={"Authorization": f"Bearer {token}"})
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
            bodies.append(response.text)
        assert len(set(bodies)) == 1
        assert (await client.post("/mcp", json={})).status_code == 401


async def test_what_components_see_of_a_token_cannot_be_passed_on() -> None:
    made, _ = runtime(["bf:peek:tool_access:allow"], config={"audience": AUDIENCE, "tokens": {}})
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))

    @server.tool
    def peek() -> str:
        from fastmcp.server.dependencies import get_access_token

        return repr(get_access_token()) + str(get_access_token().token)  # type: ignore[union-attr]

    guard(server, made)
    token = token_of(made)
    async with http(server, token) as client:
        seen = await text_of(client, "peek")
    assert "macaroon:" in seen
    assert "mm_" not in seen
    assert token[3:40] not in seen


async def test_a_narrowed_token_is_the_same_principal_and_session() -> None:
    served, made = accepting()
    wide = token_of(made, client="agent")
    facts = []
    for token in (wide, attenuate(wide, "bf:send_mail:tool_access:deny")):
        access = await served.server.auth.verify_token(token)  # type: ignore[union-attr]
        assert access is not None
        facts.append((access.client_id, access.subject, access.claims))
    assert facts[0] == facts[1]
    other = await served.server.auth.verify_token(token_of(made, tenant="x"))  # type: ignore[union-attr]
    assert other is not None
    assert other.claims["iss"] != facts[0][2]["iss"]


async def test_an_expired_token_ends_an_open_session(monkeypatch: pytest.MonkeyPatch) -> None:
    served, made = accepting()
    short = token_of(made, expires=timedelta(seconds=60))
    async with http(served.server, short, "legacy") as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        clock = served.guard.engine.clock
        later = clock.now() + timedelta(minutes=5)
        monkeypatch.setattr(type(clock), "now", lambda self: later)
        with pytest.raises(Exception, match=r"error response|401"):
            await client.call_tool("send_mail", {"to": "bob"})


def where_it_went() -> tuple[FastMCP[Any], list[Any]]:
    """A server that a guarded one stands before, and what came to it."""
    backend, seen = FastMCP[Any]("backend"), list[Any]()

    @backend.tool
    def send_mail(to: str) -> str:
        from fastmcp.server.dependencies import fastmcp_request_ctx, get_http_headers

        bound = fastmcp_request_ctx.get()
        seen.append((get_http_headers(include_all=True), bound.meta if bound is not None else None))
        return f"sent to {to}"

    return backend, seen


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("A17")
async def test_a_proxied_server_never_gets_the_token_or_its_discharges(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastmcp.server import create_proxy

    backend, seen = where_it_went()
    _, made, party = with_party(monkeypatch)
    async with serving(backend) as url:
        server = create_proxy(url, name="mail", auth=MacaroonAuth(made))
        rules = ["bf:send_mail:tool_access:allow"]
        assert await made.reload({**policy(rules), "config": made.compiled.source.data["config"]})
        guard(server, made)
        token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
        discharges = answered(token, party)
        narrow = attenuate(token, "bf:read_mail:tool_access:deny")
        async with serving(server) as front:
            from fastmcp.client.transports import StreamableHttpTransport

            headers = {"Macaroon-Discharge": discharges[0], "X-Mine": "kept"}
            transport = StreamableHttpTransport(front, headers=headers, auth=token)
            async with Client(transport, mode=era) as client:
                assert await code_with(client, {}, "send_mail", to="bob") is None
            transport = StreamableHttpTransport(front, headers={"X-Mine": "kept"}, auth=token)
            async with Client(transport, mode=era) as client:
                given = meta(narrow, bind(narrow, [discharge(party.open(t), t) for _, t in unmet(narrow)]))
                assert await code_with(client, given | {"mine": 1}, "send_mail", to="bob") is None
    assert len(seen) == 2
    assert all(headers["x-mine"] == "kept" for headers, _ in seen)
    assert seen[1][1]["mine"] == 1
    assert "mm_" not in str(seen)
    assert "md_" not in str(seen)
    assert not any("authorization" in headers or "macaroon-discharge" in headers for headers, _ in seen)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("rule", ["", "af:look:field_access:deny:absent", "bf:look:tool_access:elicit"])
@pytest.mark.threat("A17")
async def test_a_component_sees_no_token_under_any_rule_and_is_called_on_behalf_of_its_bearer(
    rule: str, era: str
) -> None:
    made, records = runtime(
        ["bf:*:tool_access:allow", *([rule] if rule else [])], config={"audience": AUDIENCE, "tokens": {}}
    )
    server, seen = FastMCP[Any]("mail"), list[Any]()

    @server.tool
    def inner() -> dict[str, Any]:
        return {"ok": True}

    @server.tool
    async def look(ctx: Context) -> dict[str, Any]:
        bound = ctx.request_context
        assert bound is not None
        seen.append((bound.meta, bound._srctx.params))
        return (await ctx.fastmcp.call_tool("inner", {})).structured_content or {}

    guard(server, made)
    auth = MacaroonClientAuth(token_of(made))
    async with Client(auth.over(server), mode=era, elicitation_handler=Person()) as client:
        result = await client.call_tool("look", {}, meta={"mine": 1})
    assert result.structured_content == {"ok": True}
    assert seen[0][0]["mine"] == 1
    assert "mm_" not in str(seen)
    assert [r["component"]["name"] for r in records.finals() if r.get("nested")] == ["inner"]
    assert {r["principal"]["subject"] for r in records.finals() if r["component"]["kind"] == "tool"} == {"alice"}


# --- beside another provider ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("C02")
async def test_a_person_is_one_principal_by_token_and_by_oauth_where_the_file_says_so(era: str) -> None:
    table = tokens(alice={"iss": "https://id.example"})
    served, made = accepting(other=table, identity={"token_namespace": "https://id.example"})
    for credential in ("alice", token_of(made), token_of(made, namespace="https://id.example")):
        async with http(served.server, credential, era) as client:
            assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    whom = [r["principal"] for r in served.records.finals() if r["component"]["name"] == "send_mail"]
    assert whom == [{"kind": "user", "namespace": "https://id.example", "subject": "alice"}] * 3
    async with http(served.server, token_of(made, namespace="https://elsewhere"), era) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    assert served.records.finals()[-1]["principal"]["namespace"] == "https://elsewhere"


async def test_the_other_provider_never_sees_our_tokens_and_keeps_its_own() -> None:
    seen = []

    class Spy(type(tokens(alice={}))):  # type: ignore[misc]
        async def verify_token(self, token: str) -> Any:
            seen.append(token)
            return await super().verify_token(token)

    table = Spy({"alice": {"client_id": "c", "subject": "alice", "sub": "alice", "scopes": []}})
    served, made = accepting(other=table)
    async with http(served.server, "alice") as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    assert served.records.finals()[-1]["principal"]["namespace"] == "auth:Spy"
    async with http(served.server, token_of(made)) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    assert set(seen) == {"alice"}


@pytest.mark.parametrize(
    "before", ["Bearer  ", "Bearer \t", "Bearer\t ", "bearer   ", "Bearer Bearer ", 'Bearer "', "Bearer ,"]
)
@pytest.mark.threat("A17")
async def test_the_other_provider_never_sees_our_token_whatever_stands_before_it(before: str) -> None:
    seen = []

    class Spy(TokenVerifier):
        async def verify_token(self, token: str) -> None:
            seen.append(token)

    served, made = accepting(other=Spy())
    app, token = served.server.http_app(), token_of(made)
    transport = httpx2.ASGITransport(app=app)
    headers = {"accept": "application/json, text/event-stream", "authorization": before + token}
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {}}
        response = await client.post("/mcp", json=body, headers=headers)
        blank = before.strip().lower() == "bearer" and before.lower().startswith("bearer ")
        assert (response.status_code != 401) == blank
        assert (await client.post("/mcp", json=body, headers={"authorization": "Bearer xmm_y"})).status_code == 401
    assert seen == ["xmm_y"]


@pytest.mark.parametrize("value", ["Bearer {}", "Bearer  {}", "bearer \t{}", "Bearer Bearer {}", "Basic {}", "{}"])
@pytest.mark.threat("A17")
def test_no_header_with_our_token_in_it_goes_on(value: str) -> None:
    token = mint(KeyRing.from_secret(secrets.token_hex(32)), subject="alice", audience=AUDIENCE)
    assert _is_ours(b"Authorization", value.format(token).encode())
    assert not _is_ours(b"authorization", b"Bearer x" + token.encode())
    assert not _is_ours(b"x-mine", token.encode())
    assert _is_ours(b"MACAROON-discharge", b"x")


async def test_the_scopes_that_the_other_provider_asks_of_everybody_are_not_asked_of_tokens() -> None:
    table = tokens(alice={"scopes": ["mail"]}, bob={"scopes": []})
    table.required_scopes = ["mail"]
    served, made = accepting(other=table)
    async with http(served.server, "alice") as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    async with http(served.server, token_of(made)) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"


async def test_a_tenant_that_the_file_asks_for_must_be_in_the_token() -> None:
    served, made = accepting(identity={"tenant": "org"})
    async with http(served.server, token_of(made)) as client:
        assert await code_of(client, "send_mail", to="bob") == "claim_missing"
    async with http(served.server, token_of(made, tenant="acme")) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    assert served.records.finals()[-1]["principal"]["tenant"] == "acme"


# --- on stdio and in memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_in_meta_names_the_caller_here(era: str) -> None:
    served, made = accepting()
    narrow = attenuate(token_of(made), "bf:send_mail:tool_access:deny")
    async with Client(served.server, mode=era) as client:
        assert await code_of(client, "send_mail", to="bob") == "unauthenticated"
        assert await code_with(client, meta(token_of(made)), "send_mail", to="bob") is None
        assert await code_with(client, meta(narrow), "send_mail", to="bob") == "unknown"
        assert await code_with(client, meta("mm_nonsense"), "send_mail", to="bob") == "token_invalid"
        assert await code_with(client, {"mcp-macaroon/token": 1}, "send_mail", to="bob") == "token_invalid"
    assert served.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
async def test_named_local_callers_need_no_token_and_a_wrong_one_is_not_forgiven(era: str) -> None:
    served, made = accepting(identity={"local": "me"})
    async with Client(served.server, mode=era) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        assert await code_with(client, meta("mm_nonsense"), "send_mail", to="bob") == "token_invalid"
        stale = token_of(made, expires=timedelta(seconds=-1))
        assert await code_with(client, meta(stale), "send_mail", to="bob") == "token_invalid"


@pytest.mark.parametrize("era", ERAS)
async def test_the_process_has_a_token_and_a_request_may_only_narrow_it(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(32)
    keys = KeyRing.from_secret(secret)
    own = mint(keys, subject="alice", audience=AUDIENCE, caveats=["bf:*:tool_access:only:send_mail"])
    monkeypatch.setenv("MACAROON_TOKEN", own)
    config = {"audience": AUDIENCE, "tokens": {}, "secret_key": secret}
    served = guarded(mail(), RULES, config=config)
    async with Client(served.server, mode=era) as client:
        assert [tool.name for tool in await client.list_tools()] == ["send_mail"]
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        assert await text_of(client, "read_mail", id=1) == "Unknown tool: 'read_mail'"
        narrow = attenuate(own, "bf:*:tool_access:only:nothing")
        assert await code_with(client, meta(narrow), "send_mail", to="bob") == "unknown"
        wider = mint(keys, subject="alice", audience=AUDIENCE)
        assert await code_with(client, meta(wider), "send_mail", to="bob") == "token_invalid"
        assert await code_with(client, meta(wider), "read_mail", id=1) == "token_invalid"
    details = {r.get("detail") for r in served.records.finals() if r.get("code") == "token_invalid"}
    assert details == {"token_not_narrowed"}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("B01")
async def test_over_http_too_the_processs_token_is_the_most_that_anybody_may_have(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, shared = secrets.token_hex(32), secrets.token_hex(32)
    keys, party = KeyRing.from_secret(secret), ThirdParty(location=PLACE, key=KeyRing.from_secret(shared))
    own = mint(keys, subject="alice", audience=AUDIENCE)
    monkeypatch.setenv("MACAROON_TOKEN", f"{own}\n")
    monkeypatch.setenv("PARTY_KEY", shared)
    third = [{"location": PLACE, "key": "${PARTY_KEY}"}]
    served, _ = accepting(secret_key=secret, third_party=third)
    async with http(served.server, own, era) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    async with http(served.server, attenuate(own, "bf:send_mail:tool_access:deny"), era) as client:
        assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
    other = mint(keys, subject="alice", audience=AUDIENCE)
    waiting = require(other, party, subject="alice", audience=AUDIENCE)
    for token in (other, attenuate(other, "bf:send_mail:tool_access:deny"), waiting):
        assert await refused_with_401(served.server, token, era)
    codes = [record["code"] for record in served.records if record["event"] == "token_refused"]
    assert codes == ["token_not_narrowed"] * 3


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("junk", "token_format"),
        (" \n", "token_format"),
        (mint(KeyRing.from_secret(secrets.token_hex(32)), subject="a", audience=AUDIENCE), "token_key_unknown"),
        (mint(KeyRing.from_secret(KEY), subject="a", audience="other"), "token_audience"),
        (
            mint(KeyRing.from_secret(KEY), subject="a", audience=AUDIENCE, expires=timedelta(seconds=-1)),
            "token_expired",
        ),
    ],
)
async def test_a_useless_token_of_the_process_is_told_at_the_start_and_refuses_everybody(
    token: str, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MACAROON_TOKEN", token)
    served, made = accepting(identity={"local": "me"})
    (told,) = [record for record in caplog.records if "MACAROON_TOKEN" in record.getMessage()]
    assert told.levelname == "ERROR"
    assert f"[{code}]" in told.getMessage()
    assert token.strip() == "" or token.strip() not in caplog.text
    async with Client(served.server) as client:
        assert await code_of(client, "send_mail", to="bob") == "token_invalid"
    assert await refused_with_401(served.server, token_of(made))


async def test_white_space_around_the_processs_token_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MACAROON_TOKEN", f" {mint(KeyRing.from_secret(KEY), subject='alice', audience=AUDIENCE)}\r\n")
    served = guarded(mail(), RULES, config={"audience": AUDIENCE, "tokens": {}})
    async with Client(served.server) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    assert "MACAROON_TOKEN" not in caplog.text


async def test_a_token_where_none_is_accepted_is_refused_rather_than_overlooked() -> None:
    served = guarded(mail(), RULES)
    token = mint(KeyRing.from_secret(secrets.token_hex(32)), subject="alice", audience=AUDIENCE)
    async with Client(served.server) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        assert await code_with(client, meta(token), "send_mail", to="bob") == "token_invalid"


@pytest.mark.parametrize("era", ERAS)
async def test_over_http_meta_narrows_the_credential_for_one_request_and_never_replaces_it(era: str) -> None:
    table = tokens(alice={})
    served, made = accepting(other=table)
    wide = token_of(made)
    narrow = attenuate(wide, "bf:send_mail:tool_access:deny")
    async with http(served.server, wide, era) as client:
        assert await code_with(client, meta(narrow), "send_mail", to="bob") == "unknown"
        assert await code_with(client, {}, "send_mail", to="bob") is None
        assert await code_with(client, meta(token_of(made)), "send_mail", to="bob") == "token_invalid"
    async with http(served.server, narrow, era) as client:
        assert await code_with(client, meta(wide), "send_mail", to="bob") == "token_invalid"
    async with http(served.server, "alice", era) as client:
        assert await code_with(client, meta(wide), "send_mail", to="bob") == "token_invalid"


# --- third parties ----------------------------------------------------------------------------------------------------

PLACE = "https://approve.example"


def with_party(monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[Guarded, Runtime, ThirdParty]:
    shared = secrets.token_hex(32)
    monkeypatch.setenv("PARTY_KEY", shared)
    given = [{"location": PLACE, "key": "${PARTY_KEY}", "condition": "is on duty"}]
    served, made = accepting(third_party=given, **config)
    return served, made, ThirdParty(location=PLACE, key=KeyRing.from_secret(shared), condition="is on duty")


def answered(token: str, party: ThirdParty, *caveats: str) -> tuple[str, ...]:
    """The discharges of a token's third-party caveats, bound to it."""
    made = [discharge(party.open(ticket), ticket, caveats=caveats) for _, ticket in unmet(token)]
    return bind(token, made)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("B03")
async def test_a_third_partys_discharge_comes_in_a_header_or_in_meta(era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served, made, party = with_party(monkeypatch)
    token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
    discharges = answered(token, party, "bf:*:tool_access:only:send_mail")
    async with http(served.server, token, era) as client:
        assert await code_with(client, {}, "send_mail", to="bob") == "token_invalid"
        assert await code_with(client, meta(discharges=discharges), "send_mail", to="bob") is None
        assert await code_with(client, meta(discharges=discharges), "read_mail", id=1) == "unknown"
        assert await code_with(client, meta(discharges=discharges * 20), "send_mail", to="bob") == "token_invalid"
    app = served.server.http_app()
    async with app.lifespan(app):
        from fastmcp.client.transports import StreamableHttpTransport

        def factory(**options: Any) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), **options)

        headers = {"Macaroon-Discharge": ", ".join(discharges)}
        transport = StreamableHttpTransport(
            "http://localhost/mcp", headers=headers, auth=token, httpx_client_factory=factory
        )
        async with Client(transport, mode=era) as client:
            assert await text_of(client, "send_mail", to="bob") == "sent to bob"
    async with Client(mail_with(made), mode=era) as client:
        assert await code_with(client, meta(token, discharges), "send_mail", to="bob") is None
        assert await code_with(client, meta(token), "send_mail", to="bob") == "token_invalid"


@pytest.mark.threat("B03")
async def test_discharges_come_in_one_header_line_or_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {location: secrets.token_hex(32) for location in ("one", "two")}
    for location, key in keys.items():
        monkeypatch.setenv(f"KEY_{location}", key)
    served, made = accepting(third_party=[{"location": each, "key": f"${{KEY_{each}}}"} for each in keys])
    parties = {each: ThirdParty(location=each, key=KeyRing.from_secret(key)) for each, key in keys.items()}
    token = token_of(made)
    for party in parties.values():
        token = require(token, party, subject="alice", audience=AUDIENCE)
    discharges = bind(token, [discharge(parties[place].open(ticket), ticket) for place, ticket in unmet(token)])
    app = served.server.http_app(stateless_http=True)
    transport = httpx2.ASGITransport(app=app)
    body = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "send_mail", "arguments": {"to": "b"}},
    }
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for lines in ([", ".join(discharges)], list(discharges)):
            headers = [("accept", "application/json, text/event-stream"), ("authorization", f"Bearer {token}")]
            headers += [("mcp-protocol-version", "2025-11-25"), *(("macaroon-discharge", line) for line in lines)]
            assert "sent to b" in (await client.post("/mcp", json=body, headers=headers)).text
        headers += [("macaroon-discharge", f"md_{number}") for number in range(20)]
        assert (await client.post("/mcp", json=body, headers=headers)).status_code == 401


def mail_with(made: Runtime) -> FastMCP[Any]:
    server = mail()
    guard(server, made)
    return server


@pytest.mark.threat("B08", "B09")
async def test_discharges_of_unknown_services_count_for_nothing_and_conditions_of_known_ones_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, made, party = with_party(monkeypatch)
    strange = ThirdParty(location="https://evil.example", key=KeyRing.from_secret(secrets.token_hex(32)))
    claims = ThirdParty(location=PLACE, key=KeyRing.from_secret(secrets.token_hex(32)))
    async with Client(served.server) as client:
        for wrong in (strange, claims):
            token = require(token_of(made), wrong, subject="alice", audience=AUDIENCE)
            discharges = answered(token, wrong)
            assert await code_with(client, meta(token, discharges), "send_mail", to="bob") == "token_invalid"
        token = require(token_of(made), party, subject="alice", audience=AUDIENCE)
        wide = answered(token, party, "bf:send_mail:tool_access:allow")
        assert await code_with(client, meta(token, wide), "delete_mail", id=1) == "unknown"
        unbound = [discharge(party.open(ticket), ticket) for _, ticket in unmet(token)]
        assert await code_with(client, meta(token, tuple(unbound)), "send_mail", to="bob") == "token_invalid"
    details = [r.get("detail") for r in served.records.finals() if r.get("code") == "token_invalid"]
    assert details[:2] == ["discharge_unknown_party", "discharge_ticket"]


# --- revocation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("B13")
async def test_revoking_a_token_ends_everything_that_was_narrowed_from_it_at_the_next_call(era: str) -> None:
    served, made = accepting()
    wide = token_of(made)
    branch = attenuate(wide, "bf:read_mail:tool_access:deny")
    leaf = attenuate(branch, r"bf:resource=mail\://*:tool_access:deny")
    bearers = made.bearers
    assert bearers is not None
    async with Client(served.server, mode=era) as client:
        for token in (wide, branch, leaf):
            assert await code_with(client, meta(token), "send_mail", to="bob") is None
        middle = (await bearers.accept(branch)).token
        await bearers.revocations.revoke(middle.lineage[-1])
        assert await code_with(client, meta(wide), "send_mail", to="bob") is None
        for token in (branch, leaf):
            assert await code_with(client, meta(token), "send_mail", to="bob") == "token_invalid"
        await bearers.revocations.revoke(middle.id)
        assert await code_with(client, meta(wide), "send_mail", to="bob") == "token_invalid"
    assert await refused_with_401(served.server, wide, era)
    assert [r.get("detail") for r in served.records.finals() if r.get("code") == "token_invalid"] == [
        "token_revoked"
    ] * 3


@pytest.mark.threat("B13")
async def test_revoking_a_principal_or_a_key_ends_its_tokens() -> None:
    served, made = accepting()
    bearers = made.bearers
    assert bearers is not None
    alice, bob = token_of(made), token_of(made, subject="bob")
    async with Client(served.server) as client:
        who = Principal(kind="user", namespace="", subject="alice")
        await bearers.revocations.revoke_principal(who, served.guard.engine.clock.now())
        assert await code_with(client, meta(alice), "send_mail", to="bob") == "token_invalid"
        assert await code_with(client, meta(bob), "send_mail", to="bob") is None
        await bearers.revocations.revoke_key(made.keys.current)
        assert await code_with(client, meta(bob), "send_mail", to="bob") == "token_invalid"


async def test_a_store_that_cannot_answer_refuses_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    served, made = accepting()
    token = token_of(made)

    async def fails(*_: Any) -> Any:
        raise StoreUnavailable("down")

    async with http(served.server, token) as client:
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"
        monkeypatch.setattr(made.store, "get", fails)
        assert await code_of(client, "send_mail", to="bob") == "store_unavailable"
        monkeypatch.undo()
        assert await text_of(client, "send_mail", to="bob") == "sent to bob"


# --- what is refused at the start -------------------------------------------------------------------------------------


def test_a_file_that_accepts_no_tokens_makes_no_provider() -> None:
    made, _ = runtime(RULES)
    with pytest.raises(ConfigError, match=r"tokens: \{\}"):
        MacaroonAuth(made)


def test_a_provider_takes_its_file_by_the_name_that_the_middleware_takes_it_by(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(json.dumps(policy(RULES, {"audience": AUDIENCE, "tokens": {}})))
    path.chmod(0o600)
    by_name, by_place = MacaroonAuth(config_path=path), MacaroonAuth(str(path))
    assert by_name.runtime is by_place.runtime is MacaroonMiddleware(config_path=path).runtime


def test_tokens_need_an_audience_and_an_empty_section_says_what_it_means() -> None:
    with pytest.raises(ConfigError, match="audience"):
        load_runtime(policy(RULES, {"tokens": {}}))
    with pytest.raises(ConfigError, match=r"tokens: \{\}"):
        load_runtime(policy(RULES, {"tokens": None, "audience": AUDIENCE}))


def test_a_shared_secret_that_is_weak_or_missing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAK", "short")
    for key, words in (("${WEAK}", "the shared secret"), ("${NOT_THERE}", "NOT_THERE")):
        given = {"audience": AUDIENCE, "tokens": {}, "third_party": [{"location": PLACE, "key": key}]}
        with pytest.raises(ConfigError, match=words):
            load_runtime(policy(RULES, given))
    twice = [{"location": PLACE, "key": secrets.token_hex(32)}] * 2
    with pytest.raises(ConfigError, match="there already"):
        load_runtime(policy(RULES, {"audience": AUDIENCE, "tokens": {}, "third_party": twice}))


def test_a_provider_and_a_guard_of_different_policies_do_not_go_together() -> None:
    config = {"audience": AUDIENCE, "tokens": {}}
    one, other = runtime(RULES, config=config)[0], runtime(RULES, config=config)[0]
    with pytest.raises(BindError, match="different policies"):
        guard(mail(MacaroonAuth(one)), other)


@pytest.mark.parametrize("era", ERAS)
async def test_a_provider_without_a_guard_admits_nobody(era: str) -> None:
    served, made = accepting()
    bare = mail(MacaroonAuth(made))
    assert await refused_with_401(bare, token_of(made), era)
    nobody, _ = runtime(RULES, config={"audience": AUDIENCE, "tokens": {}})
    assert await MacaroonAuth(nobody).verify_token(token_of(nobody)) is None
    assert not await refused_with_401(served.server, token_of(made), era)


# --- step-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_up", "status"), [(True, 403), (False, 200)])
async def test_a_token_that_lacks_authority_gets_403_where_the_file_says_so(step_up: bool, status: int) -> None:
    served, made = accepting(tokens={"step_up": step_up})
    narrow = attenuate(token_of(made), "bf:send_mail:tool_access:deny")
    responses: list[httpx2.Response] = []
    app = served.server.http_app()

    async def note(response: httpx2.Response) -> None:
        responses.append(response)

    def factory(**options: Any) -> httpx2.AsyncClient:
        options["event_hooks"] = {"response": [note]}
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), **options)

    from fastmcp.client.transports import StreamableHttpTransport

    async with app.lifespan(app):
        transport = StreamableHttpTransport("http://localhost/mcp", auth=narrow, httpx_client_factory=factory)
        async with Client(transport) as client:
            assert await text_of(client, "delete_mail", id=1) == "Unknown tool: 'delete_mail'"
            denied_to_all = responses[-1].status_code
            with pytest.raises(Exception) if step_up else nullcontext():  # noqa: PT011 (the status is what counts)
                await client.call_tool("send_mail", {"to": "bob"}, raise_on_error=False)
    assert denied_to_all == 200
    assert responses[-1].status_code == status
    if step_up:
        assert responses[-1].headers["www-authenticate"].startswith('Bearer error="insufficient_scope"')


def test_the_prefix_is_the_one_that_tokens_bear() -> None:
    from mcp_macaroon_middleware.core.bearers import PREFIX

    assert PREFIX == raw.PREFIX


def test_a_store_that_forgets_says_at_the_start_that_revocations_go_with_it(caplog: pytest.LogCaptureFixture) -> None:
    made = load_runtime(policy(RULES, {"tokens": {}, "audience": AUDIENCE}))
    assert "what is revoked counts again after a restart" in caplog.text
    assert not made.store.durable
    caplog.clear()
    load_runtime(policy(RULES, {"audience": AUDIENCE}))
    assert "revoked" not in caplog.text
