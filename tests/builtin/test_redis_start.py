"""A redis store that cannot be used stops the start, wherever that begins, and `check` finds it: no server begins whose
first call would be refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastmcp import FastMCP
from redis_many import running_cluster, running_sentinels
from redis_server import BINARIES, RedisServer, certificates, free_port, running

from mcp_macaroon_middleware import MacaroonMiddleware, guard
from mcp_macaroon_middleware.builtin.memory import MemoryStore
from mcp_macaroon_middleware.cli import main
from mcp_macaroon_middleware.config.runtime import load_runtime
from mcp_macaroon_middleware.errors import ConfigError, PluginError, StoreUnavailable
from mcp_macaroon_middleware.plugin import StoreContext, StoreType

PASSWORD = "hunter2"


def write(folder: Path, store: str, **settings: Any) -> Path:
    """A policy file on `store`."""
    config = {
        "secret_key": "0123456789abcdef" * 4,
        "audience": "mail",
        "default": "deny",
        "store": store,
        "audit": [{"sink": "jsonl", "path": "audit.jsonl", "required": True}],
    }
    plugins = {store.partition(":")[0]: {"timeout": 20, **settings}}
    path = folder / "policies.yaml"
    path.write_text(yaml.safe_dump({"config": config, "plugins": plugins, "policies": ["bf:send:tool_access:allow"]}))
    path.chmod(0o600)
    return path


# --- what is wrong ----------------------------------------------------------------------------------------------------


@contextmanager
def down(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    yield f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0", "cannot be reached, or went away"


@contextmanager
def nowhere(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    yield f"redis://:{PASSWORD}@no-such-host.invalid/0", "cannot be reached, or went away"


@contextmanager
def wrong_password(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind, "--requirepass", "another") as server:
        yield server.url(f":{PASSWORD}"), "refuses the user or the password"


@contextmanager
def no_tls(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind) as server:
        yield server.url(f":{PASSWORD}").replace("redis:", "rediss:"), "did not answer in time"


@contextmanager
def unknown_certificate(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    if "redis" not in BINARIES:
        pytest.skip("no redis-server here, which speaks TLS")
    with running("redis", "--requirepass", PASSWORD, tls=certificates(folder)) as server:
        yield server.url(f":{PASSWORD}"), "cannot be reached over TLS"


@contextmanager
def evicting(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind, "--maxmemory-policy", "volatile-ttl", "--requirepass", PASSWORD) as server:
        yield server.url(f":{PASSWORD}"), "(maxmemory-policy volatile-ttl); set noeviction there"


@contextmanager
def copying(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind, "--requirepass", PASSWORD, "--replicaof", f"127.0.0.1 {free_port()}") as server:
        yield server.url(f":{PASSWORD}"), "refuses the operation (READONLY)"


@contextmanager
def full(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind, "--requirepass", PASSWORD, "--maxmemory", "1") as server:
        yield server.url(f":{PASSWORD}"), "refuses the operation (OOM)"


@contextmanager
def reading_alone(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind) as server:
        server.ask("ACL", "SETUSER", "mail", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-set")
        yield server.url(f"mail:{PASSWORD}"), "refuses the operation"


@contextmanager
def a_node(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind, "--cluster-enabled", "yes", "--cluster-config-file", str(folder / "nodes.conf")) as server:
        yield server.url(), "write redis+cluster:// in the store's address"


@contextmanager
def no_node(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    with running(kind) as server:
        yield f"redis+cluster://127.0.0.1:{server.port}", "write redis:// in the store's address"


@contextmanager
def no_sentinel(kind: str, folder: Path) -> Iterator[tuple[str, str]]:
    yield f"redis+sentinel://:{PASSWORD}@127.0.0.1:{free_port()}/mail", "no redis sentinel can be reached"


FAULTS = (
    down,
    nowhere,
    wrong_password,
    no_tls,
    unknown_certificate,
    evicting,
    copying,
    full,
    reading_alone,
    a_node,
    no_node,
    no_sentinel,
)


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A policy file whose store cannot be used, and what is to be said of it."""
    with request.param(kind, tmp_path) as (store, why):
        yield write(tmp_path, store, timeout=1 if request.param is no_tls else 20), why


# --- the start --------------------------------------------------------------------------------------------------------


def _middleware(policy: Path) -> object:
    return MacaroonMiddleware(policy)


def _guard(policy: Path) -> object:
    return guard(FastMCP("mail"), policy)


def _in_a_loop(policy: Path) -> object:
    async def begin() -> object:
        return load_runtime(policy)

    return asyncio.run(begin())


@pytest.mark.threat("N01", "N05", "N12")
@pytest.mark.parametrize("start", [load_runtime, _in_a_loop, _guard, _middleware], ids=lambda start: start.__name__)
def test_a_store_that_cannot_be_used_stops_the_start_and_the_text_says_why_and_nothing_else(
    fault: tuple[Path, str], start: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    policy, why = fault
    with pytest.raises(ConfigError) as refused:
        start(policy)
    (diagnostic,) = refused.value.diagnostics
    assert diagnostic.code == "store_failed"
    assert why in diagnostic.message
    assert diagnostic.place().startswith(f"{policy}:")
    assert "mcp-macaroon check" in diagnostic.hint
    assert PASSWORD not in "".join(traceback.format_exception(refused.value)) + caplog.text
    assert not policy.with_name("audit.jsonl").exists(), "something was opened"


@pytest.mark.threat("N01")
def test_check_finds_a_store_that_cannot_be_used_and_leaves_it_out_where_it_is_told_to(
    fault: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy, why = fault
    assert main(["check", str(policy)]) == 6
    out = capsys.readouterr().out
    assert why in out
    assert "[store_failed]" in out
    assert "1 error" in out
    assert main(["check", str(policy), "--json"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert (document["exit_code"], document["diagnostics"][-1]["code"]) == (6, "store_failed")
    assert PASSWORD not in out + json.dumps(document)
    assert main(["check", str(policy), "--no-store"]) == 0


SERVER = """
from pathlib import Path
from fastmcp import FastMCP
from mcp_macaroon_middleware import guard

mcp = FastMCP("mail")

@mcp.tool
def send() -> str:
    return "sent"

guard(mcp, Path(__file__).with_name("policies.yaml"))
"""


@pytest.mark.threat("N01")
def test_a_server_that_guards_itself_is_looked_at_without_its_store_where_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write(tmp_path, f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    (tmp_path / "guarded_mail.py").write_text(SERVER)
    words = ["check", str(policy), "--server", f"{tmp_path / 'guarded_mail.py'}:mcp"]
    assert main(words) == 6
    shown = capsys.readouterr()
    assert "server:" not in shown.out, "one fault is told once"
    assert PASSWORD not in shown.out + shown.err
    assert main([*words, "--no-store"]) == 0
    with pytest.raises(ConfigError):
        load_runtime(policy)


@pytest.mark.threat("N01")
def test_a_start_waits_for_a_server_that_hangs_for_one_operation_at_most(own: RedisServer, tmp_path: Path) -> None:
    policy = write(tmp_path, own.url(), timeout=1)
    own.pause()
    began = time.monotonic()
    with pytest.raises(ConfigError, match="did not answer in time"):
        load_runtime(policy)
    assert 0.9 < time.monotonic() - began < 10
    own.resume()
    load_runtime(policy).close_now()


@pytest.mark.threat("N01")
def test_a_start_costs_one_connection_and_leaves_neither_it_nor_a_key_nor_a_thread(
    own: RedisServer, tmp_path: Path
) -> None:
    policy = write(tmp_path, own.url())
    load_runtime(policy).close_now()
    threads = threading.active_count()
    before = own.ask("INFO", "stats")["total_connections_received"]
    runtime = load_runtime(policy)
    assert own.ask("INFO", "stats")["total_connections_received"] - before == 2  # the start's, and this one
    assert len(own.ask("CLIENT", "LIST").splitlines()) == 1
    assert own.ask("KEYS", "*") == []
    assert threading.active_count() == threads
    runtime.close_now()


@pytest.mark.threat("N01")
def test_a_server_that_ends_after_the_start_stops_nothing(own: RedisServer, tmp_path: Path) -> None:
    runtime = load_runtime(write(tmp_path, own.url()))
    own.kill()
    assert runtime.reload_now()
    with pytest.raises(StoreUnavailable):
        asyncio.run(runtime.store.get(["k"]))
    runtime.close_now()


@pytest.mark.threat("N01", "N05")
def test_every_node_of_a_cluster_is_tried_and_one_that_may_forget_stops_the_start(kind: str, tmp_path: Path) -> None:
    with running_cluster(kind, tmp_path) as cluster:
        policy = write(tmp_path, cluster.address(1))
        load_runtime(policy).close_now()
        for node in cluster.masters:
            node.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            with pytest.raises(ConfigError, match=r"maxmemory-policy volatile-lru"):
                load_runtime(policy)
            node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        load_runtime(policy).close_now()
        for node in cluster.masters:
            assert node.ask("KEYS", "*") == []


@pytest.mark.threat("N01", "N04")
def test_a_start_finds_the_master_by_its_sentinels_and_wants_the_copies_that_writes_will_need(
    kind: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        watched = stack.enter_context(running_sentinels(kind, tmp_path))
        load_runtime(write(tmp_path, watched.address(), replicas=1)).close_now()
        with pytest.raises(ConfigError, match="fewer than 2 replicas"):
            load_runtime(write(tmp_path, watched.address(), replicas=2))
        with pytest.raises(ConfigError, match="no redis master of that name"):
            load_runtime(write(tmp_path, watched.address("other")))


# --- stores of others -------------------------------------------------------------------------------------------------


def _begin(probe: Callable[[str, StoreContext], None] | None) -> list[Any]:
    """Starts with a store of somebody else's, at an address that holds a secret."""
    opened: list[Any] = []

    class Counted(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            opened.append(self)

    theirs = StoreType(scheme="theirs", open=lambda *_: Counted(), probe=probe)
    config = {
        "secret_key": "0123456789abcdef" * 4,
        "audience": "mail",
        "default": "deny",
        "store": f"theirs://{PASSWORD}",
    }
    load_runtime({"config": config, "policies": []}, application=[theirs]).close_now()
    return opened


def test_a_store_of_others_needs_no_probe_and_one_that_has_it_is_told_all_that_it_needs() -> None:
    told: list[tuple[str, str, bool]] = []

    def probe(address: str, context: StoreContext) -> None:
        told.append((address, context.audience, threading.current_thread() is threading.main_thread()))
        asyncio.run(asyncio.sleep(0))

    assert len(_begin(None)) == 1
    assert len(_begin(probe)) == 1
    assert told == [(f"theirs://{PASSWORD}", "mail", False)]


@pytest.mark.threat("N01", "L2")
@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (PluginError("no such bucket"), "no such bucket"),
        (StoreUnavailable("it is down"), "it is down"),
        (ValueError(PASSWORD), "ValueError"),
        (SystemExit(PASSWORD), "SystemExit"),
    ],
)
def test_whatever_a_probe_raises_stops_the_start_before_the_store_is_opened(raised: BaseException, shown: str) -> None:
    def probe(address: str, context: StoreContext) -> None:
        raise raised

    with pytest.raises(ConfigError) as refused:
        _begin(probe)
    assert "the store 'theirs' cannot be used: " in str(refused.value)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    assert shown in str(refused.value) or shown == "SystemExit"
