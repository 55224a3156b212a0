"""A runtime serves one whole revision; what cannot be used never takes its place."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.config.runtime import Runtime, load_runtime, shared_runtime
from mcp_macaroon_middleware.errors import ConfigError
from mcp_macaroon_middleware.model import Component, Effect, Kind, Principal, RequestContext

Write = Callable[..., Path]

ALICE = Principal(kind="user", namespace="https://idp", subject="alice")
FIRST = "config: {default: deny, audit: [{sink: jsonl, path: audit.jsonl}]}\npolicies: ['bf:a:tool_access:allow']\n"
SECOND = FIRST.replace("bf:a:", "bf:b:")
THIRD = FIRST.replace("bf:a:", "bf:c:")


@pytest.fixture
def load() -> Iterator[Callable[..., Runtime]]:
    """Loads runtimes and closes them afterwards."""
    loaded: list[Runtime] = []

    def loader(config: Any) -> Runtime:
        loaded.append(load_runtime(config))
        return loaded[-1]

    yield loader
    for runtime in loaded:
        runtime.close_now()


async def effect(runtime: Runtime, tool: str) -> Effect:
    request = RequestContext(
        principal=ALICE, component=Component(kind=Kind.TOOL, name=tool, names=(tool,)), arguments={}
    )
    decision = await runtime.engine.decide(request)
    if decision.effect is Effect.ALLOW:
        await runtime.engine.fail(decision, "cancelled")
    return decision.effect


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_file_becomes_a_running_policy(write: Write) -> None:
    path = write(FIRST)
    runtime = load_runtime(path)
    assert await effect(runtime, "a") is Effect.ALLOW
    assert await effect(runtime, "b") is Effect.DENY
    assert runtime.status().revision == runtime.revision == runtime.engine.plan.revision
    assert runtime.status().stale_since is None
    assert runtime.settings.default == "deny"
    await runtime.close()


async def test_a_mapping_is_the_same_as_a_file() -> None:
    data = {"config": {"default": "deny"}, "policies": ["bf:a:tool_access:allow"]}
    runtime = load_runtime(data)
    assert await effect(runtime, "a") is Effect.ALLOW
    with pytest.raises(ConfigError, match="no file to watch"):
        await runtime.watch()
    assert runtime.reload_now({"config": {"default": "deny"}, "policies": ["bf:b:tool_access:allow"]})
    assert await effect(runtime, "a") is Effect.DENY
    assert not runtime.reload_now()
    await runtime.close()


def test_everything_wrong_is_raised_at_once_and_nothing_is_left_open(write: Write, monkeypatch: Any) -> None:
    monkeypatch.delenv("MACAROON_SECRET_KEY")
    path = write("config: {default: dney, audit: [{sink: jsonl, path: a.jsonl}]}\npolicies: ['bf:a:tool_acess:deny']")
    with pytest.raises(ConfigError) as caught:
        load_runtime(path)
    assert [d.code for d in caught.value.diagnostics] == ["keys_missing", "bad_value", "unknown_policy"]
    assert not (path.parent / "a.jsonl").exists()


@pytest.mark.threat("FI20", "L07")
def test_without_a_file_there_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_runtime(tmp_path / "policies.yaml")


def test_warnings_are_said_loudly_at_the_start(load: Any, write: Write, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mcp_macaroon_middleware"):
        load(write("policies: []"))
    assert "ALLOWED [default_missing]" in caplog.text


@pytest.mark.threat("M06")
def test_the_start_record_names_revision_and_plugins(load: Any, write: Write) -> None:
    path = write(FIRST)
    runtime = load(path)
    (start,) = (record for record in records(path.parent / "audit.jsonl") if record["event"] == "start")
    assert start["revision"] == runtime.revision
    named = {plugin["name"]: plugin for plugin in start["plugins"]}
    assert named["builtin"]["distribution"] == "mcp-macaroon-middleware"
    assert named["builtin"]["version"]


# --- keys -------------------------------------------------------------------------------------------------------------

LONG = "0123456789abcdef0123456789abcdef"


@pytest.mark.threat("L08", "A10")
@pytest.mark.parametrize("secret", ["your-secret-key-here", "...", "short", "x" * 31, ""])
def test_a_placeholder_or_short_key_is_refused_with_the_command_that_makes_one(write: Write, secret: str) -> None:
    path = write(f"config:\n  default: deny\n  secret_key: '{secret}'\npolicies: []")
    with pytest.raises(ConfigError) as caught:
        load_runtime(path)
    (error,) = caught.value.diagnostics
    assert (error.line, error.column) == (3, 15)
    assert error.source_line == ""
    if secret:
        assert error.code == "keys_invalid"
        assert "mcp-macaroon keys new" in error.hint


@pytest.mark.threat("L08", "L07")
def test_a_long_literal_key_loads_with_a_warning_and_is_never_shown(
    load: Any, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(f"config:\n  default: deny\n  secret_key: {LONG}\npolicies: []")
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, logger="mcp_macaroon_middleware"):
        runtime = load(path)
    assert "[literal_secret]" in caplog.text
    assert "[secret_world_readable]" in caplog.text
    assert LONG not in caplog.text + repr(runtime) + repr(runtime.settings) + repr(runtime.compiled)


@pytest.mark.threat("L08")
@pytest.mark.parametrize("reference", ["${ABSENT_KEY}", "{env: ABSENT_KEY}"])
def test_a_reference_to_an_absent_key_names_the_variable_and_uses_no_default(write: Write, reference: str) -> None:
    with pytest.raises(ConfigError, match="ABSENT_KEY is not set"):
        load_runtime(write(f"config:\n  default: deny\n  secret_key: {reference}\npolicies: []"))


def test_a_key_comes_from_a_file_or_a_ring(load: Any, write: Write, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(LONG + "\n")
    (tmp_path / "key").chmod(0o600)
    from_file = load(write("config:\n  default: deny\n  secret_key: {file: key}\npolicies: []"))
    from_text = load(write(f"config:\n  default: deny\n  secret_key: {LONG}\npolicies: []"))
    assert from_file.keys.derive("token", "") == from_text.keys.derive("token", "")
    with pytest.raises(ConfigError, match="keys new"):
        load_runtime(write("config:\n  default: deny\n  keys: ./ring\npolicies: []"))
    with pytest.raises(ConfigError, match="not both"):
        load_runtime(write("config:\n  default: deny\n  keys: ./ring\n  secret_key: {file: key}\npolicies: []"))


# --- reload -----------------------------------------------------------------------------------------------------------


async def test_a_reload_puts_the_new_revision_in_force(load: Any, write: Write) -> None:
    path = write(FIRST)
    runtime = load(path)
    before = runtime.revision
    write(SECOND)
    assert runtime.reload_now()
    assert runtime.revision != before
    assert runtime.status().reloads == 1
    assert (await effect(runtime, "a"), await effect(runtime, "b")) == (Effect.DENY, Effect.ALLOW)
    reloads = [record for record in records(path.parent / "audit.jsonl") if record["event"] == "reload"]
    assert [(r["previous"], r["revision"]) for r in reloads] == [(before, runtime.revision)]


BROKEN = [
    "",
    "   \n",
    "config: [",
    "config: {default: deny}\n",
    "policies:\n",
    FIRST.replace("tool_access", "tool_acess"),
    FIRST[:-4],
    FIRST.replace("default", "defualt"),
    "\x00",
]


@pytest.mark.threat("L11", "FI19")
@pytest.mark.parametrize("text", BROKEN)
async def test_a_broken_empty_or_cut_off_file_keeps_the_old_revision_and_says_so(
    load: Any, write: Write, text: str
) -> None:
    path = write(FIRST)
    runtime = load(path)
    revision = runtime.revision
    write(text)
    assert not runtime.reload_now()
    assert not runtime.reload_now()
    status = runtime.status()
    assert (status.revision, status.failures, status.reloads) == (revision, 2, 0)
    assert status.stale_since is not None
    assert status.last_error
    assert status.as_json()["stale_since"] == status.stale_since.isoformat()
    assert await effect(runtime, "a") is Effect.ALLOW
    failures = [record for record in records(path.parent / "audit.jsonl") if record["event"] == "reload_failed"]
    assert len(failures) == 2
    assert failures[0]["revision"] == revision
    write(FIRST)
    assert runtime.reload_now()
    assert (runtime.status().stale_since, runtime.status().last_error, runtime.revision) == (None, "", revision)


@pytest.mark.threat("L11", "FI19", "FI20")
def test_a_deleted_file_keeps_the_running_revision_and_stops_the_next_start(load: Any, write: Write) -> None:
    path = write(FIRST)
    runtime = load(path)
    path.unlink()
    assert not runtime.reload_now()
    assert runtime.status().stale_since is not None
    with pytest.raises(ConfigError):
        load_runtime(path)


@pytest.mark.threat("L11")
async def test_a_file_that_is_being_written_is_never_half_a_policy(load: Any, write: Write) -> None:
    rules = [f"  - bf:tool_{n}:tool_access:deny\n" for n in range(60)]
    path = write("config: {default: allow}\npolicies:\n" + "".join(rules))
    runtime = load(path)
    whole = {runtime.revision}
    text = "config: {default: allow}\npolicies:\n" + "".join(rules) + "  - bf:last:tool_access:deny\n"

    def slowly() -> None:
        with path.open("w") as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                file.flush()
                time.sleep(0.002)

    writer = threading.Thread(target=slowly)
    writer.start()
    while writer.is_alive():
        await runtime.reload()
        assert runtime.revision in whole or len(runtime.compiled.rules) == 61
    writer.join()
    assert runtime.reload_now()
    assert len(runtime.compiled.rules) == 61


@pytest.mark.threat("L13", "FI21")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("secret_key: " + LONG, "config.secret_key"),
        ("audience: other", "config.audience"),
        ("identity: {local: null}", "config.identity"),
        ("audit: [{sink: log}]", "config.audit"),
        ("clear_arguments: [path]", "config.clear_arguments"),
    ],
)
def test_a_reload_that_changes_what_is_bound_at_the_start_is_refused(
    load: Any, write: Write, change: str, what: str
) -> None:
    base = {"default": "deny", "audit": "[{sink: jsonl, path: audit.jsonl}]"}
    key, _, value = change.partition(": ")

    def text(config: dict[str, str], tool: str) -> str:
        lines = "".join(f"  {name}: {inner}\n" for name, inner in config.items())
        return f"config:\n{lines}policies: ['bf:{tool}:tool_access:allow']\n"

    runtime = load(write(text(base, "a")))
    revision = runtime.revision
    write(text({**base, key: value}, "b"))
    assert not runtime.reload_now()
    assert runtime.revision == revision
    assert f"{what} cannot change" in runtime.status().last_error
    assert "restart" in runtime.status().last_error
    assert LONG not in runtime.status().last_error


@pytest.mark.threat("L13")
def test_a_reload_that_changes_the_plugin_set_is_refused(load: Any, write: Write) -> None:
    runtime = load(write("config: {default: deny}\npolicies: []"))
    write("config: {default: deny}\nplugins: {disable: [schedule]}\npolicies: []")
    assert not runtime.reload_now()
    assert "plugins.disable cannot change" in runtime.status().last_error


@pytest.mark.threat("FI21")
def test_a_key_file_that_goes_away_does_not_stop_a_reload(load: Any, write: Write, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(LONG)
    (tmp_path / "key").chmod(0o600)
    config = "config: {default: deny, secret_key: {file: key}}\n"
    path = write(config + "policies: []")
    runtime = load(path)
    (tmp_path / "key").unlink()
    write(config + "policies: ['bf:a:tool_access:allow']")
    assert runtime.reload_now()
    with pytest.raises(ConfigError, match="no such file"):
        load_runtime(path)


def test_a_file_of_equal_content_is_the_same_revision_and_no_reload(load: Any, write: Write) -> None:
    runtime = load(write(FIRST))
    plan = runtime.engine.plan
    write("# a comment\n" + FIRST)
    assert runtime.reload_now()
    assert runtime.engine.plan is plan
    assert runtime.status().reloads == 0


async def test_of_two_reloads_at_once_the_later_reading_stays(
    load: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = load(write(FIRST))
    read, gate = Runtime._compile, threading.Event()
    slow = iter((True, False))

    def delayed(self: Runtime, config: Any) -> Any:
        waits = next(slow)
        found = read(self, config)
        if waits:
            gate.wait(10)
        return found

    monkeypatch.setattr(Runtime, "_compile", delayed)
    write(SECOND)
    older = asyncio.create_task(runtime.reload())
    await asyncio.sleep(0.2)
    write(THIRD)
    assert await runtime.reload()
    gate.set()
    assert await older
    assert await effect(runtime, "c") is Effect.ALLOW
    assert runtime.status().reloads == 1


async def test_a_request_sees_one_revision_from_start_to_end(load: Any, write: Write) -> None:
    runtime = load(write(FIRST))
    request = RequestContext(principal=ALICE, component=Component(kind=Kind.TOOL, name="a", names=("a",)))
    decision = await runtime.engine.decide(request)
    began = runtime.revision
    write(SECOND)
    assert await runtime.reload()
    assert decision.plan.revision == began
    await runtime.engine.fail(decision, "cancelled")
    final = [r for r in records(Path(runtime.path.parent) / "audit.jsonl") if r.get("request") == request.id][-1]
    assert final["revision"] == began


# --- watching ---------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for is a change of a file
            await asyncio.sleep(0.01)


async def test_watching_reloads_when_the_file_is_replaced_and_survives_a_broken_one(load: Any, write: Write) -> None:
    runtime = load(write(FIRST))
    first = runtime.revision
    watcher = asyncio.create_task(runtime.watch(interval=0.02))
    write(SECOND)
    await until(lambda: runtime.revision != first)
    write("policies: [")
    await until(lambda: runtime.status().failures == 1)
    write(THIRD)
    await until(lambda: runtime.status().reloads == 2)
    assert runtime.status().stale_since is None
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
@pytest.mark.threat("L07")
async def test_swapping_a_link_is_a_reload(load: Any, write: Write, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v2").mkdir()
    (tmp_path / "v1" / "policies.yaml").write_text(FIRST)
    (tmp_path / "v2" / "policies.yaml").write_text(SECOND)
    (tmp_path / "data").symlink_to("v1")
    link = tmp_path / "policies.yaml"
    link.symlink_to("data/policies.yaml")
    runtime = load(link)
    first = runtime.revision
    watcher = asyncio.create_task(runtime.watch(interval=0.02))
    (tmp_path / "new").symlink_to("v2")
    os.replace(tmp_path / "new", tmp_path / "data")
    await until(lambda: runtime.revision != first)
    watcher.cancel()


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_one_file_has_one_runtime_however_it_is_named(write: Write, tmp_path: Path) -> None:
    path = write(FIRST)
    (tmp_path / "link.yaml").symlink_to(path)
    first, second = shared_runtime(path), shared_runtime(tmp_path / "link.yaml")
    assert first is second
    first.close_now()
    assert shared_runtime(path) is first
    first.close_now()
    first.close_now()
    third = shared_runtime(path)
    assert third is not first
    third.close_now()


def test_a_start_that_fails_is_not_remembered(write: Write) -> None:
    path = write("policies: [")
    with pytest.raises(ConfigError):
        shared_runtime(path)
    write(FIRST)
    shared_runtime(path).close_now()
