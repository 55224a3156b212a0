"""A discharge service beside a guarded MCP server: who may fetch which discharge, and what it is worth."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from guarded import ERAS, runtime, text_of, tokens
from lab import Records
from serving import listening, serving
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_macaroon_middleware.adapters.discharging import discharge_service
from mcp_macaroon_middleware.adapters.fastmcp import MacaroonAuth, MacaroonClientAuth, guard
from mcp_macaroon_middleware.adapters.holder import via_http
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import ConfigError, DischargeRefused, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, ThirdParty, bind, mint, require, unmet
from mcp_macaroon_middleware.tokens.keys import new_key

AUDIENCE = "mail"
PLACE = "https://duty.example"
DUTY = "on-duty"
RULES: list[Any] = [
    {"before": DUTY, "policy": "tool_access", "action": "allow", "for": {"subject": ["alice", "bob"], "issuer": "any"}},
    {"before": "four-eyes", "policy": "tool_access", "action": "elicit"},
]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> ThirdParty:
    secret = secrets.token_hex(32)
    monkeypatch.setenv("PARTY_KEY", secret)
    return ThirdParty(location=PLACE, key=KeyRing.from_secret(secret), condition=DUTY)


def mail() -> tuple[FastMCP[Any], Runtime]:
    config = {"audience": AUDIENCE, "tokens": {}, "third_party": [{"location": PLACE, "key": "${PARTY_KEY}"}]}
    made, _ = runtime(["bf:*:tool_access:allow"], config=config)
    server: FastMCP[Any] = FastMCP("mail", auth=MacaroonAuth(made))

    @server.tool
    def read_mail(id: int) -> dict[str, Any]:
        return {"id": id, "body": "secret"}

    @server.tool
    def send_mail(to: str) -> str:
        return f"sent to {to}"

    guard(server, made)
    return server, made


class Desk:
    """A service, reached without sockets; what it recorded."""

    def __init__(self, rules: list[Any] = RULES, **discharges: Any) -> None:
        given = {"location": PLACE, "key": "${PARTY_KEY}", **discharges}
        self.runtime, self.records = runtime(rules, config={"audience": "duty", "tokens": {}, "discharges": given})
        self.app = Starlette(routes=[Mount("/duty", discharge_service(self.runtime, auth=tokens(alice={}, bob={})))])
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://duty")

    async def post(self, body: Any, who: str | None = "alice", path: str = "/duty/") -> httpx2.Response:
        headers = {"authorization": f"Bearer {who}"} if who else {}
        return await self.http.post(path, json=body, headers=headers)

    def service(self, who: str = "alice") -> Any:
        return via_http("http://duty/duty/", headers={"authorization": f"Bearer {who}"}, client=self.http)


def text(ticket: bytes) -> str:
    return base64.urlsafe_b64encode(ticket).decode().rstrip("=")


def needs(made: Runtime, party: ThirdParty, subject: str = "alice", condition: str = DUTY) -> str:
    token = mint(made.keys, subject=subject, audience=AUDIENCE)
    return require(token, party, subject=subject, audience=AUDIENCE, condition=condition)


def ticket_for(party: ThirdParty, subject: str = "alice", condition: str = DUTY) -> str:
    token = mint(KeyRing.from_secret(secrets.token_hex(32)), subject=subject, audience=AUDIENCE)
    asked = require(token, party, subject=subject, audience=AUDIENCE, condition=condition)
    ((_, sealed),) = unmet(asked)
    return text(sealed)


def ends(records: Records) -> list[str]:
    """How every request ended."""
    return [record["outcome"] for record in records.finals()]


# --- the story --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_counts_once_the_service_agreed_and_no_more_than_it_allows(era: str, shared: ThirdParty) -> None:
    server, made = mail()
    desk = Desk(caveats={DUTY: ["bf:send_mail:tool_access:deny"]})
    token = needs(made, shared)
    async with serving(server) as url:
        with pytest.raises(ToolError, match="token_invalid"):
            async with Client(url, auth=token, mode=era) as client:
                await client.call_tool("read_mail", {"id": 1})
        auth = MacaroonClientAuth(token, services={PLACE: desk.service()})
        async with Client(url, auth=auth, mode=era) as client:
            assert [tool.name for tool in await client.list_tools()] == ["read_mail"]
            assert (await client.call_tool("read_mail", {"id": 1})).data["id"] == 1
            assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
        narrow = MacaroonClientAuth(auth.narrow("af:*:field_access:deny:body"), services={PLACE: desk.service()})
        async with Client(url, auth=narrow, mode=era) as client:
            assert (await client.call_tool("read_mail", {"id": 1})).data == {"id": 1}
            assert await text_of(client, "send_mail", to="bob") == "Unknown tool: 'send_mail'"
        bob = MacaroonClientAuth(token, services={PLACE: desk.service("bob")})
        with pytest.raises(DischargeRefused, match="403 other_subject"):
            await bob.discharges()
    assert ends(desk.records) == ["ok", "ok", "denied"]


async def test_a_discharge_ends_when_the_file_says(shared: ThirdParty) -> None:
    desk = Desk(expires=60)
    answer = await desk.post({"ticket": ticket_for(shared)})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    left = datetime.fromisoformat(answer.json()["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=55) < left <= timedelta(seconds=60)


async def test_a_discharge_of_one_ticket_answers_no_other(shared: ThirdParty) -> None:
    _, made = mail()
    desk = Desk()
    first, second = needs(made, shared), needs(made, shared)
    ((_, sealed),) = unmet(first)
    found = (await desk.post({"ticket": text(sealed)})).json()["discharge"]
    assert made.bearers is not None
    assert (await made.bearers.accept(first, bind(first, [found]))).principal.subject == "alice"
    with pytest.raises(TokenInvalid):
        await made.bearers.accept(second, bind(second, [found]))


# --- who may ask ------------------------------------------------------------------------------------------------------


async def test_nobody_and_the_wrong_caller_get_nothing_and_every_request_is_recorded_once(shared: ThirdParty) -> None:
    desk = Desk()
    body = {"ticket": ticket_for(shared)}
    nobody = await desk.post(body, who="never-heard-of")
    assert nobody.status_code == 401
    assert "discharge" not in nobody.text
    unsigned = await desk.post(body, who=None)
    assert unsigned.status_code == 401
    other = await desk.post(body, who="bob")
    assert (other.status_code, other.json()["code"]) == (403, "other_subject")
    foreign = await desk.post({"ticket": ticket_for(shared, subject="bob")})
    assert foreign.json()["code"] == "other_subject"
    assert ends(desk.records) == ["denied"] * 4


async def test_the_rules_judge_the_condition_and_whom_it_is_about(shared: ThirdParty) -> None:
    rules = [f"bf:{DUTY}:tool_access:allow", f"bf:{DUTY}:argument_allowlist:allow:subject:carol"]
    desk = Desk(rules, same_subject=False)
    assert (await desk.post({"ticket": ticket_for(shared, subject="carol")})).status_code == 200
    for ticket in (ticket_for(shared, subject="dave"), ticket_for(shared, subject="carol", condition="pays")):
        refused = await desk.post({"ticket": ticket})
        assert refused.status_code == 403
        assert "discharge" not in refused.json()


async def test_a_person_may_have_to_agree_first(shared: ThirdParty) -> None:
    desk = Desk()
    body = {"ticket": ticket_for(shared, condition="four-eyes")}
    asked = await desk.post(body)
    assert (asked.status_code, asked.json()["code"]) == (403, "approval_required")
    (question,) = asked.json()["challenges"]
    stranger = await desk.post({"choices": ["once"]}, who="bob", path=f"/duty/approvals/{question['id']}")
    assert stranger.status_code == 403
    answer = await desk.post({"choices": ["once"]}, path=f"/duty/approvals/{question['id']}")
    assert answer.json() == {"allowed": True}
    assert (await desk.post(body)).status_code == 200
    assert (await desk.post(body)).json()["code"] == "approval_required"


async def test_a_holder_gets_the_question_with_the_refusal_and_can_answer_it(shared: ThirdParty) -> None:
    _, made = mail()
    desk = Desk()
    token = needs(made, shared, condition="four-eyes")
    auth = MacaroonClientAuth(token, services={PLACE: desk.service()})
    with pytest.raises(DischargeRefused, match="403 approval_required") as refused:
        await auth.discharges()
    assert (refused.value.status, refused.value.refusal) == (403, "approval_required")
    (question,) = refused.value.challenges
    assert "four-eyes" in question["message"]
    assert any("once" in offers for offers in question["choices"])
    assert (await desk.post({"choices": ["once"]}, path=f"/duty/approvals/{question['id']}")).json() == {
        "allowed": True
    }
    assert made.bearers is not None
    assert (await made.bearers.accept(token, await auth.discharges())).principal.subject == "alice"


async def test_what_a_strange_service_says_of_its_refusal_is_told_only_as_far_as_it_can_be_read() -> None:
    answers: list[Any] = [[], {"code": "a b\x1b[2J"}, {"code": 7, "challenges": "x"}, {"challenges": [1, {"id": "q"}]}]
    token = mint(KeyRing.from_secret(secrets.token_hex(32)), subject="alice", audience=AUDIENCE)
    party = ThirdParty(location=PLACE, key=KeyRing.from_secret(secrets.token_hex(32)))
    token = require(token, party, subject="alice", audience=AUDIENCE)
    found = []
    for answer in answers:
        transport = httpx2.MockTransport(lambda request, answer=answer: httpx2.Response(403, json=answer))
        async with httpx2.AsyncClient(transport=transport) as http:
            auth = MacaroonClientAuth(token, services={PLACE: via_http("http://strange/", client=http)})
            with pytest.raises(DischargeRefused) as refused:
                await auth.discharges()
            assert str(refused.value) == "the discharge service refused: 403"
            found.append((refused.value.refusal, refused.value.challenges))
    assert found == [("", ()), ("", ()), ("", ()), ("", ({"id": "q"},))]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_mount_path_answers_with_and_without_its_slash(slash: str, shared: ThirdParty) -> None:
    _, made = mail()
    desk = Desk()
    fetch = via_http(f"http://duty/duty{slash}", headers={"authorization": "Bearer alice"}, client=desk.http)
    assert await MacaroonClientAuth(needs(made, shared), services={PLACE: fetch}).discharges()


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://elsewhere/duty/"),
        (308, "http://duty:8080/duty/"),
        (307, "https://duty/duty/"),
        (303, "/duty/"),
        (307, "/duty"),
    ],
)
@pytest.mark.threat("A17")
async def test_no_redirect_leads_a_ticket_or_a_sign_in_elsewhere(
    status: int, location: str, shared: ThirdParty
) -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(status, headers={"location": location})

    transport = httpx2.MockTransport(answer)
    _, made = mail()
    async with httpx2.AsyncClient(transport=transport, follow_redirects=True) as http:
        fetch = via_http("http://duty/duty", headers={"authorization": "Bearer alice"}, client=http)
        with pytest.raises(DischargeRefused, match=str(status)):
            await MacaroonClientAuth(needs(made, shared), services={PLACE: fetch}).discharges()
    assert set(asked) == {"http://duty/duty"}
    assert len(asked) <= 2


async def test_a_token_of_ours_signs_in_at_the_service_too(shared: ThirdParty) -> None:
    desk = Desk()
    own = mint(desk.runtime.keys, subject="alice", audience="duty")
    assert (await desk.post({"ticket": ticket_for(shared)}, who=own)).status_code == 200


# --- tickets ----------------------------------------------------------------------------------------------------------


async def test_a_forged_a_foreign_and_a_changed_ticket_open_nothing(shared: ThirdParty) -> None:
    desk = Desk()
    stranger = ThirdParty(location=PLACE, key=KeyRing.from_secret(secrets.token_hex(32)), condition=DUTY)
    elsewhere = ThirdParty(location="https://other.example", key=shared.key, condition=DUTY)
    good = base64.urlsafe_b64decode(ticket_for(shared) + "==")
    changed = good[:-1] + bytes([good[-1] ^ 1])
    for ticket in (ticket_for(stranger), ticket_for(elsewhere), text(changed), text(b""), text(b"mt1"), text(good[3:])):
        answer = await desk.post({"ticket": ticket})
        assert answer.status_code == 400
        assert "discharge" not in answer.json()
    assert ends(desk.records) == ["denied"] * 6


@pytest.mark.parametrize(
    "body",
    [{}, {"ticket": 1}, {"ticket": "x", "more": 1}, [], "x", {"ticket": "a b"}, {"ticket": "abcde"}, {"ticket": ""}],
)
async def test_what_is_no_request_is_told_what_one_is(body: Any, shared: ThirdParty) -> None:
    answer = await Desk().post(body)
    assert answer.status_code == 400
    assert answer.json()["code"] in {"arguments_invalid", "discharge_ticket"}


async def test_large_and_deep_and_odd_bodies_are_refused(shared: ThirdParty) -> None:
    desk = Desk()
    headers = {"authorization": "Bearer alice", "content-type": "application/json"}
    large = await desk.http.post("/duty/", content=b'{"ticket": "' + b"a" * 70_000 + b'"}', headers=headers)
    assert large.status_code == 413
    for content in (b"[" * 9_000, b'{"ticket":"a","ticket":"b"}', b"\xff", b"NaN"):
        assert (await desk.http.post("/duty/", content=content, headers=headers)).status_code == 400
    form = {**headers, "content-type": "text/plain"}
    page = json.dumps({"ticket": ticket_for(shared)}).encode()
    assert (await desk.http.post("/duty/", content=page, headers=form)).status_code == 400
    assert (await desk.http.get("/duty/", headers=headers)).status_code == 405


async def test_no_record_and_no_answer_holds_a_ticket_a_key_or_a_discharge(shared: ThirdParty) -> None:
    desk = Desk()
    ticket = ticket_for(shared)
    found = (await desk.post({"ticket": ticket})).json()["discharge"]
    recorded = json.dumps(list(desk.records))
    assert ticket not in recorded
    assert found not in recorded
    assert repr(shared).count("key") == 0


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("discharges", "code"),
    [
        (None, "discharges_missing"),
        ({"location": PLACE, "key": "${NOT_SET_ANYWHERE}"}, ""),
        ({"location": PLACE, "key": "${SHORT}"}, "keys_invalid"),
        ({"location": "a b", "key": "${PARTY_KEY}"}, ""),
        ({"location": PLACE, "key": "${PARTY_KEY}", "expires": 0}, ""),
        ({"location": PLACE, "key": "${PARTY_KEY}", "expires": 90_000}, ""),
        ({"location": PLACE, "key": "${PARTY_KEY}", "caveats": {"x": ["nonsense"]}}, ""),
    ],
)
def test_a_file_that_cannot_serve_is_refused_at_the_start(
    discharges: Any, code: str, shared: ThirdParty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORT", "short")
    config = {"audience": "duty"} | ({"discharges": discharges} if discharges else {})
    with pytest.raises(ConfigError) as refused:
        discharge_service(runtime([], config=config)[0])
    assert code in str(refused.value) or code in {each.code for each in refused.value.diagnostics}


async def test_a_file_that_loses_the_section_serves_nothing_until_it_is_mended(
    shared: ThirdParty, tmp_path: Path
) -> None:
    file = tmp_path / "policies.yaml"
    section = f"  discharges: {{location: '{PLACE}', key: '${{PARTY_KEY}}'}}\n"
    head = "config:\n  secret_key: '${PARTY_KEY}'\n  audience: duty\n"
    rules = f"policies: ['bf:{DUTY}:tool_access:allow']\n"
    file.write_text(head + section + rules)
    made = load_runtime(file)
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=discharge_service(made, auth=tokens(alice={}))), base_url="http://duty"
    )
    headers = {"authorization": "Bearer alice"}

    async def status() -> int:
        return int((await http.post("/", json={"ticket": ticket_for(shared)}, headers=headers)).status_code)

    assert await status() == 200
    file.write_text(head + rules)
    assert await made.reload()
    assert await status() == 503
    file.write_text(head + section + rules)
    assert await made.reload()
    assert await status() == 200
    await made.close()


# --- the page ---------------------------------------------------------------------------------------------------------


async def test_the_page_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, secret = secrets.token_hex(32), secrets.token_hex(32)
    names = {"DUTY_SECRET_KEY": secret, "DUTY_SHARED_KEY": shared, "PARTY_KEY": shared, "ID_TOKEN": "alice"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    new_key("keys")
    (file,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "duty.yaml").write_text(file)
    (tmp_path / "duty.yaml").chmod(0o600)
    service, minting, holding, answering = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    room: dict[str, Any] = {"os": os, "input": lambda question: "once"}
    run(service, room)
    verifier = tokens(alice={"shift": "night"})
    monkeypatch.setattr(type(room["sign_in"]), "verify_token", lambda self, token: verifier.verify_token(token))
    run(minting, room)
    async with listening(room["app"]) as origin:
        run(holding.replace("https://duty.example/discharge/", f"{origin}/discharge/"), room)
        run(answering, room)
        made, _ = runtime(
            ["bf:*:tool_access:allow"],
            config={
                "audience": AUDIENCE,
                "tokens": {},
                "secret_key": None,
                "keys": str(tmp_path / "keys"),
                "third_party": [{"location": PLACE, "key": "${PARTY_KEY}"}],
            },
        )
        assert made.bearers is not None
        assert (await made.bearers.accept(room["token"], await room["discharged"]())).token.caveats == (
            "bf:delete_*:tool_access:deny",
        )
        four_eyes = room["require"](
            room["token"], room["duty"], subject="alice", audience=AUDIENCE, condition="four-eyes"
        )
        room["auth"] = MacaroonClientAuth(four_eyes, services={PLACE: via_http(room["url"], headers=room["signed_in"])})
        assert len(await room["discharged"]()) == 2


PAGE = (Path(__file__).parents[2] / "docs" / "discharges.md").read_text(encoding="utf-8")


def run(snippet: str, room: dict[str, Any]) -> None:
    exec(compile(snippet, "docs/discharges.md", "exec"), room)
