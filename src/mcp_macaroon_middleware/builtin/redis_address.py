"""Where a `redis` store's servers are, read from its address. It never shows the address, which may hold a password."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ..plugin import PluginError

FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_PLAIN: Final = "redis://[user:password@]host[:port][/database]"
OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")
_SENTINEL: Final = "redis+sentinel://[user:password@]host[:port],host[:port]/master-name[/database]"
_CLUSTER: Final = "redis+cluster://[user:password@]host[:port],host[:port]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A server, what to say to it first, and whether it is spoken to over TLS, which then is never left out."""

    host: str
    port: int = PORT
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    files: tuple[tuple[str, str], ...] = ()

    @property
    def scheme(self) -> str:
        """What its address begins with."""
        return "rediss" if self.tls else "redis"

    def options(self) -> dict[str, Any]:
        """The arguments of redis-py's `Connection`, without retries, without timeouts of its own."""
        return {
            "host": self.host,
            "port": self.port,
            "db": self.database,
            "username": self.username,
            "password": self.password,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            **dict(self.files),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelAddress:
    """The sentinels, what they call the master, and how to speak to the master: `master` has no host of its own."""

    sentinels: tuple[RedisAddress, ...]
    name: str
    master: RedisAddress

    @property
    def scheme(self) -> str:
        """What its address begins with."""
        return f"{self.master.scheme}+sentinel"

    def at(self, host: str, port: int) -> RedisAddress:
        """The address of a master that the sentinels name."""
        return replace(self.master, host=host, port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAddress:
    """Some nodes of a cluster; the rest is asked of them."""

    nodes: tuple[RedisAddress, ...]

    @property
    def scheme(self) -> str:
        """What its address begins with."""
        return f"{self.nodes[0].scheme}+cluster"

    def at(self, host: str, port: int) -> RedisAddress:
        """The address of a node that another node names."""
        return replace(self.nodes[0], host=host, port=port)


def read_address(address: str, base: Path) -> RedisAddress:
    """What `address` says; files that it names start from `base`. Raises `PluginError`, never with a part of it."""
    parts, found, _ = _read(address, base, "redis", PORT, _PLAIN)
    if len(found) > 1:
        raise _malformed(_PLAIN)
    return replace(found[0], database=_database(parts.path, _PLAIN))


def read_sentinels(address: str, base: Path) -> SentinelAddress:
    """What a `redis+sentinel` address says: its user is the master's, the sentinels' is among its options. Raises
    `PluginError`, never with a part of it."""
    parts, found, options = _read(address, base, "redis+sentinel", SENTINEL_PORT, _SENTINEL, OF_SENTINELS)
    name, _, database = parts.path.removeprefix("/").partition("/")
    if not name:
        raise _malformed(_SENTINEL)
    username, password = (options.get(option) or None for option in OF_SENTINELS)
    return SentinelAddress(
        sentinels=tuple(replace(each, username=username, password=password) for each in found),
        name=unquote(name),
        master=replace(found[0], host="", port=PORT, database=_database(database, _SENTINEL)),
    )


def read_cluster(address: str, base: Path) -> ClusterAddress:
    """What a `redis+cluster` address says. Raises `PluginError`, never with a part of it."""
    parts, found, _ = _read(address, base, "redis+cluster", PORT, _CLUSTER)
    if parts.path not in ("", "/", "/0"):
        raise PluginError("the store's address names a database, and a cluster has none but 0")
    return ClusterAddress(nodes=found)


def _read(
    address: str, base: Path, scheme: str, port: int, form: str, known: tuple[str, ...] = ()
) -> tuple[SplitResult, tuple[RedisAddress, ...], dict[str, str]]:
    """The parts of `address`, the servers that it names, and its options, of which it may have those `known`."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise _malformed(form) from None
    tls = parts.scheme == scheme.replace("redis", "rediss", 1)
    if (parts.scheme != scheme and not tls) or parts.fragment:
        raise _malformed(form)
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    options = _options(parts, (*known, *FILES) if tls else known)
    whole = RedisAddress(
        host="",
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=tls,
        files=tuple((name, _file(name, options[name], base)) for name in FILES if name in options),
    )
    places = [_place(each, port, form) for each in hosts.split(",")]
    return parts, tuple(replace(whole, host=host, port=at) for host, at in places), options


def _place(text: str, port: int, form: str) -> tuple[str, int]:
    """A host and its port."""
    try:
        parts = urlsplit(f"//{text}")
        host, found = parts.hostname, parts.port
    except ValueError:
        raise _malformed(form) from None
    if not host or found == 0 or parts.netloc != text or "@" in text:
        raise _malformed(form)
    return unquote(host), found or port


def _malformed(form: str) -> PluginError:
    escape = "special characters of a password are written with per cent signs, '@' as %40"
    return PluginError(f"the store's address is not {form}; {escape}")


def _database(path: str, form: str) -> int:
    name = path.removeprefix("/")
    if name and not (name.isascii() and name.isdigit() and len(name) < 10):
        raise _malformed(form)
    return int(name or 0)


def _options(parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    """What the address says behind its question mark; nothing that is not known, least of all that TLS is unchecked."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known or name in found:
            raise PluginError(f"the store's address takes no options but, with rediss…://, {', '.join(FILES)}")
        found[name] = value
    return found


def _file(name: str, value: str, base: Path) -> str:
    path = base / value
    if not value or not path.is_file():
        raise PluginError(f"the file that {name} names in the store's address is not there")
    return str(path)
