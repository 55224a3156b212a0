"""Real clusters and sentinels for tests: several server processes on loopback, gone with the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from redis_server import BINARIES, RedisServer, free_port, tls_options

from mcp_macaroon_middleware.builtin.redis_store import CLUSTER, CLUSTERS, SENTINEL, SENTINELS, RedisSettings
from mcp_macaroon_middleware.plugin import Store, StoreContext

SLOTS: Final = 16384

Tls = Mapping[str, Path] | None
"""The certificates of `redis_server.certificates`; without, all is said in the clear."""


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Returns once `true` says so."""
    end = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except Exception:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


class ClusterOfServers:
    """Masters that share the slots, and copies of the first of them."""

    def __init__(self, kind: str, folder: Path, copies: int, tls: Tls = None) -> None:
        patience = 1500 if copies else 15_000  # milliseconds; the short one is for failovers alone
        self.tls = tls
        self.masters = [self._node(kind, folder, number, patience) for number in range(3)]
        self.copies = [self._node(kind, folder, 3 + number, patience) for number in range(copies)]

    def _node(self, kind: str, folder: Path, number: int, patience: int) -> RedisServer:
        options = {
            "--cluster-enabled": "yes",
            "--cluster-port": str(free_port()),
            "--cluster-config-file": str(folder / f"nodes{number}.conf"),
            "--cluster-node-timeout": str(patience),
            "--dir": str(folder),
            "--repl-diskless-sync-delay": "0",
            "--cluster-replica-validity-factor": "0",
        }
        if self.tls:
            options |= {"--tls-cluster": "yes", "--tls-replication": "yes"}
        return RedisServer(BINARIES[kind], *(word for option in options.items() for word in option), tls=self.tls)

    @property
    def nodes(self) -> list[RedisServer]:
        """All servers."""
        return [*self.masters, *self.copies]

    def start(self) -> None:
        """Starts them, and returns once every slot is served and every copy is one."""
        for node in self.nodes:
            node.start()
        first, share = self.masters[0], SLOTS // 3 + 1
        for number, node in enumerate(self.masters):
            node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, SLOTS) - 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, self._bus(first))
        self.settled()
        name = first.ask("CLUSTER", "MYID").decode()
        for copy in self.copies:
            until(lambda copy=copy: copy.ask("CLUSTER", "REPLICATE", name))
            until(lambda copy=copy: b"master_link_status:up" in raw(copy, "INFO", "replication"))

    def settled(self) -> None:
        """Returns once every server that runs knows all others and says that the cluster is whole."""
        there = [node for node in self.nodes if node.process is not None]
        for node in there:
            until(lambda node=node: b"cluster_state:ok" in raw(node, "CLUSTER", "INFO"))
            until(lambda node=node: raw(node, "CLUSTER", "NODES").count(b"\n") >= len(there))

    @staticmethod
    def _bus(node: RedisServer) -> str:
        return node.options[node.options.index("--cluster-port") + 1]

    def owner(self, slot: int) -> RedisServer:
        """The server that has a slot."""
        for first, last, (_, port, *_), *_ in self.nodes[-1].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError("nobody has it")

    def kill(self) -> None:
        """Ends them all."""
        for node in self.nodes:
            node.kill()

    def address(self, nodes: int = 2) -> str:
        """Its address as a store, with so many of its nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:nodes])
        return f"rediss+cluster://{hosts}?ssl_ca_certs={self.tls['ca']}" if self.tls else f"redis+cluster://{hosts}"

    def opened(self, audience: str, *, nodes: int = 2, **settings: Any) -> Store:
        """A store on the cluster, which is told of so many of its nodes."""
        context = StoreContext(audience=audience, settings=RedisSettings(**settings))
        return (CLUSTERS if self.tls else CLUSTER).open(self.address(nodes), context)


class SentinelServers:
    """A master called `store`, a copy of it, and three sentinels that watch them."""

    def __init__(self, kind: str, folder: Path, tls: Tls = None) -> None:
        binary, self.tls = BINARIES[kind], tls
        common = ("--dir", str(folder), "--repl-diskless-sync-delay", "0")
        common += ("--tls-replication", "yes") if tls else ()
        self.master = RedisServer(binary, *common, tls=tls)
        self.copy = RedisServer(binary, *common, "--replicaof", f"127.0.0.1 {self.master.port}", tls=tls)
        self.sentinels = [_Sentinel(binary, folder / f"sentinel{number}.conf", self.master) for number in range(3)]

    def start(self) -> None:
        """Starts them, and returns once the sentinels know of each other and of the copy."""
        for server in (self.master, self.copy, *self.sentinels):
            server.start()
        until(lambda: b"master_link_status:up" in raw(self.copy, "INFO", "replication"))
        for sentinel in self.sentinels:
            until(lambda sentinel=sentinel: len(sentinel.ask("SENTINEL", "SENTINELS", "store")) == 2)
            until(lambda sentinel=sentinel: len(sentinel.ask("SENTINEL", "REPLICAS", "store")) == 1)

    def kill(self) -> None:
        """Ends them all."""
        for server in (*self.sentinels, self.copy, self.master):
            server.kill()

    def address(self, name: str = "store") -> str:
        """The address of a master as a store."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        secured = f"?ssl_ca_certs={self.tls['ca']}" if self.tls else ""
        return f"{'rediss' if self.tls else 'redis'}+sentinel://{hosts}/{name}/0{secured}"

    def opened(self, audience: str, *, name: str = "store", **settings: Any) -> Store:
        """A store on the master that the sentinels name."""
        context = StoreContext(audience=audience, settings=RedisSettings(**settings))
        return (SENTINELS if self.tls else SENTINEL).open(self.address(name), context)


class _Sentinel(RedisServer):
    def __init__(self, binary: str, file: Path, master: RedisServer) -> None:
        super().__init__(binary, str(file), "--sentinel", tls=master.tls)
        self.file, self.watched = file, master

    def start(self) -> None:
        if not self.file.exists():
            lines = (
                f"sentinel monitor store 127.0.0.1 {self.watched.port} 2",
                "sentinel down-after-milliseconds store 800",
                "sentinel failover-timeout store 3000",
            )
            self.file.write_text("\n".join((*self._listens(), "bind 127.0.0.1", *lines, "")))
        self.launch([self.binary, *self.options])

    def _listens(self) -> list[str]:
        if self.tls is None:
            return [f"port {self.port}"]
        words = tls_options(self.tls)
        options = [f"{name.removeprefix('--')} {value}" for name, value in zip(words[::2], words[1::2], strict=True)]
        return ["port 0", f"tls-port {self.port}", "tls-replication yes", *options]


def raw(server: RedisServer, *words: str) -> bytes:
    """The bytes of an answer, as the server sends them."""
    from redis import Redis

    with Redis(host="127.0.0.1", port=server.port, socket_timeout=10, **server.spoken()) as client:
        client.response_callbacks.clear()
        answer = client.execute_command(*words)
        assert isinstance(answer, bytes)
        return answer


@contextmanager
def running_cluster(kind: str, folder: Path, copies: int = 0, tls: Tls = None) -> Iterator[ClusterOfServers]:
    """A cluster, for as long as the block runs."""
    made = ClusterOfServers(kind, folder, copies, tls)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@contextmanager
def running_sentinels(kind: str, folder: Path, tls: Tls = None) -> Iterator[SentinelServers]:
    """A watched master, for as long as the block runs."""
    made = SentinelServers(kind, folder, tls)
    try:
        made.start()
        yield made
    finally:
        made.kill()
