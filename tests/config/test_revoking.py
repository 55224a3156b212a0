"""`revoke(…)`: the same from a program as from a shell, through a file's store or a server's own runtime."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware import Principal, attenuate, mint, revoke
from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime
from mcp_macaroon_middleware.errors import AuditUnavailable, ConfigError, StoreUnavailable, TokenInvalid
from mcp_macaroon_middleware.tokens import KeyRing, inspect

Write = Callable[..., Path]
HEAD = "config:\n  default: deny\n  audience: mail\n  tokens: {}\n"


@pytest.fixture
def kept(write: Write, tmp_path: Path) -> Path:
    return write(f"{HEAD}  store: sqlite:///{tmp_path / 'state.db'}\npolicies: []\n")


@pytest.fixture(params=["file", "runtime", "memory"])
def place(request: pytest.FixtureRequest, kept: Path, write: Write) -> Any:
    """What a program may give: a file, a runtime of a kept store, a runtime of its own memory."""
    made = load_runtime(write(f"{HEAD}policies: []\n", "memory.yaml") if request.param == "memory" else kept)
    yield (kept if request.param == "file" else made), made
    made.close_now()


async def counts(made: Runtime, text: str) -> bool:
    """Whether a token counts; it must be its revocation if it does not."""
    assert made.bearers is not None
    try:
        await made.bearers.accept(text)
    except TokenInvalid as error:
        if error.code == "token_revoked":
            return False
        raise
    return True


def token(made: Runtime, subject: str = "alice", **fields: Any) -> str:
    return mint(made.keys, subject=subject, audience="mail", now=datetime.now(UTC) - timedelta(seconds=5), **fields)


@pytest.mark.threat("B13")
async def test_a_token_a_branch_and_a_whole_family_end(place: Any) -> None:
    where, made = place
    first, other = token(made), token(made)
    left, right = attenuate(first), attenuate(first)
    assert [await counts(made, text) for text in (first, left, right, other)] == [True] * 4
    await revoke(where, left)
    assert [await counts(made, text) for text in (first, left, attenuate(left), right)] == [True, False, False, True]
    await revoke(where, id=inspect(other).id)
    await revoke(where, right, whole=True)
    assert [await counts(made, text) for text in (first, right, other)] == [False] * 3
    await revoke(where, token(made, expires=timedelta(seconds=1)))


@pytest.mark.threat("B13")
async def test_a_principal_ends_up_to_an_instant_and_a_key_altogether(place: Any) -> None:
    where, made = place
    alice, foreign, bob = token(made), token(made, namespace="https://idp"), token(made, "bob")
    await revoke(where, principal="alice", before=datetime.now(UTC) - timedelta(minutes=1))
    assert await counts(made, alice)
    await revoke(where, principal="alice")
    assert [await counts(made, text) for text in (alice, foreign, bob)] == [False, True, True]
    await revoke(where, principal=Principal(kind="user", namespace="https://idp", subject="alice"))
    assert not await counts(made, foreign)
    await revoke(where, key_id=made.keys.current)
    assert not await counts(made, bob)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "one of"),
        ({"id": "A" * 22, "key_id": "k"}, "one of"),
        ({"id": "short"}, "22 characters"),
        ({"key_id": ""}, "letters"),
        ({"principal": ""}, "subject"),
        ({"principal": "alice", "before": datetime(2031, 1, 1)}, "time zone"),
        ({"principal": "alice", "before": datetime(2999, 1, 1, tzinfo=UTC)}, "still to come"),
        ({"id": "A" * 22, "before": datetime(2020, 1, 1, tzinfo=UTC)}, "goes with"),
        ({"id": "A" * 22, "whole": True}, "goes with"),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    place: Any, given: dict[str, Any], why: str
) -> None:
    where, made = place
    with pytest.raises(ValueError, match=why):
        await revoke(where, **given)
    assert await counts(made, token(made))


async def test_a_token_that_somebody_forged_ends_nothing(place: Any) -> None:
    where, made = place
    real = token(made)
    forged = mint(
        KeyRing({made.keys.current: b"another secret of 32 bytes or more"}, made.keys.current),
        subject="alice",
        audience="mail",
    )
    with pytest.raises(TokenInvalid):
        await revoke(where, forged)
    assert await counts(made, real)


async def test_a_memory_that_nobody_shares_is_not_revoked_in(write: Write) -> None:
    with pytest.raises(ConfigError, match="no server would see the revocation"):
        await revoke(write(f"{HEAD}policies: []\n"), id="A" * 22)


async def test_a_store_that_does_not_answer_revokes_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_runtime(kept)

    async def fails(*_: Any) -> Any:
        raise StoreUnavailable("down")

    monkeypatch.setattr(made.store, "get", fails)
    with pytest.raises(StoreUnavailable):
        await revoke(made, key_id=made.keys.current)
    await made.close()


async def test_a_revocation_is_recorded_and_waits_for_no_record(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audit = "  audit: [{sink: jsonl, path: audit.jsonl, required: true}]\n"
    path = write(f"{HEAD}{audit}  store: sqlite:///{tmp_path / 'state.db'}\npolicies: []\n")
    await revoke(path, id="A" * 22)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines if line["event"] == "revoked"] == ["A" * 22]
    made = load_runtime(path)
    text = token(made)
    caplog.set_level(logging.ERROR)
    await revoke(path, text)
    assert "this revocation is not in it" in caplog.text
    assert not await counts(made, text)

    def fails(*_: Any) -> None:
        raise AuditUnavailable("full")

    other = token(made)
    monkeypatch.setattr(made.engine.revocations, "_event", fails)
    await revoke(made, other)
    assert "revoked, but not in the audit record" in caplog.text
    assert not await counts(made, other)
    await made.close()
