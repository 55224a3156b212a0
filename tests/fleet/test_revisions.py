"""Servers on one store whose files differ: each decides and records under its own; no approval serves another rule."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from agreeing import HERE, agreed, answer, asked, code, ended
from lab import call

from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime

ONCE = {"before": "send", "policy": "tool_access", "action": "elicit", "scopes": ["once"]}
FILES: dict[str, list[Any]] = {
    "r1": ["bf:send:tool_access:elicit", "bf:read:tool_access:elicit"],
    "r2": [ONCE, "bf:read:tool_access:elicit", "bf:more:tool_access:allow"],
}


@asynccontextmanager
async def replicas(folder: Path) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """Two servers with one key and one store, and a file each."""
    key = secrets.token_hex(32)
    made = []
    for name, rules in FILES.items():
        config = {
            "secret_key": key,
            "audience": "fleet",
            "default": "deny",
            "store": "sqlite:///state.db",
            "audit": [{"sink": "jsonl", "path": f"{name}.jsonl", "required": True}],
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"config": config, "policies": rules}))
        path.chmod(0o600)
        made.append(load_runtime(path))
    yield made[0], made[1]
    for runtime in made:
        await runtime.close()


def finals(folder: Path, name: str) -> list[dict[str, Any]]:
    """How the requests to a server ended."""
    records = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == "final"]


@pytest.mark.threat("FI29", "C14", "F15")
async def test_an_approval_under_one_revision_is_none_under_another_that_changes_its_rule(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (first, second):
        one, two = first.engine, second.engine
        assert first.revision != second.revision
        for tool in ("send", "read"):
            decision = await agreed(one, "period", tool)
            assert code(decision) == "allowed"
            await ended(one, decision)
        assert code(await one.decide(call("send"))) == "allowed"
        assert code(await two.decide(call("send"))) == "approval_unavailable", "its rule reads otherwise here"
        assert code(await two.decide(call("read"))) == "allowed", "and this one reads the same"
        decision = await agreed(two, "once", "send")
        assert code(decision) == "allowed"
        await ended(two, decision)
        assert code(await two.decide(call("send"), asking=HERE)) == "asks"
        assert {record["revision"] for record in finals(tmp_path, "r1")} == {first.revision}
        assert {record["revision"] for record in finals(tmp_path, "r2")} == {second.revision}


@pytest.mark.threat("FI29", "F15")
async def test_an_answer_to_what_one_revision_asked_is_asked_for_again_under_another(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (first, second):
        question = await asked(first.engine, "send")
        assert code(await answer(second.engine, question, "period", "send")) == "asks"
        assert code(await answer(first.engine, question, "period", "send")) in ("grant_used", "approval_stale")
        assert code(await agreed(second.engine, "once", "send")) == "allowed"
