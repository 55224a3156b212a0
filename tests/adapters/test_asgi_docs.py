"""The page on web applications says what is so: its snippets run, with its rules, as it says they do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Body

from mcp_macaroon_middleware.tokens import mint
from mcp_macaroon_middleware.tokens.keys import new_secret

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "asgi.md").read_text(encoding="utf-8")
HEAD = "config: {default: deny, audience: bank, tokens: {}}\n"


def snippet(language: str, number: int) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def made(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MACAROON_SECRET_KEY", new_secret())
    monkeypatch.chdir(folder)
    (folder / "policies.yaml").write_text(HEAD + snippet("yaml", number), encoding="utf-8")
    (folder / "policies.yaml").chmod(0o600)
    names: dict[str, Any] = {}
    exec(compile(snippet("python", number), "asgi.md", "exec"), names)
    return names


def client_of(app: Any, keys: Any) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {mint(keys, subject='alice', audience='bank')}"}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://b", headers=headers)


async def test_the_middleware_of_the_page_guards_its_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_macaroon_middleware.config.runtime import shared_runtime

    app = made(0, tmp_path, monkeypatch)["app"]

    @app.get("/customers/{number}")
    def customer(number: int) -> dict[str, Any]:
        return {"number": number, "national_id": "120-55-0199"}

    @app.post("/transfers")
    @app.post("/pay")
    def pay(amount: int = Body(embed=True)) -> dict[str, Any]:
        return {"paid": amount}

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"ok": True}

    runtime = shared_runtime(tmp_path / "policies.yaml")
    async with client_of(app, runtime.keys) as client:
        assert (await client.get("/customers/7")).json() == {"number": 7}
        assert (await client.get("/health", headers={"authorization": ""})).json() == {"ok": True}
        assert (await client.post("/transfers", json={"amount": 40})).json() == {"paid": 40}
        assert (await client.post("/transfers", json={"amount": 400})).status_code == 403
        (challenge,) = (await client.post("/pay", json={"amount": 5})).json()["challenges"]
        assert (await client.post(f"/approvals/{challenge['id']}", json={"choices": ["once"]})).status_code == 200
        assert (await client.post("/pay", json={"amount": 5})).json() == {"paid": 5}
    await runtime.close()
    await runtime.close()


async def test_the_named_actions_of_the_page_are_judged_answered_and_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = made(1, tmp_path, monkeypatch)
    async with client_of(names["app"], names["macaroon"].runtime.keys) as client:
        assert (await client.get("/customers/7")).json() == {"number": 7}
        assert (await client.post("/transfers", json={"amount": 40})).json() == {"booked": 40, "by": "alice"}
        assert (await client.post("/transfers", json={"amount": 400})).json()["code"] == "argument_out_of_range"
        asked = await client.post("/transfers", json={"amount": 80})
        assert asked.json()["code"] == "approval_required"
        (challenge,) = asked.json()["challenges"]
        place = f"/approvals/{challenge['id']}"
        assert (await client.post(place, json={"choices": ["once"]})).json() == {"allowed": True}
        assert (await client.post("/transfers", json={"amount": 80})).json()["booked"] == 80
    await names["macaroon"].runtime.close()
