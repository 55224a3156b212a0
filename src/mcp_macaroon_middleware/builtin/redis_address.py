"""Where a `redis` store's server is, read from its address. It never shows the address, which may hold a password."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ..plugin import PluginError

FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
PORT: Final = 6379
_FORM: Final = "the store's address is not redis://[user:password@]host[:port][/database]"
_ESCAPE: Final = f"{_FORM}; special characters of a password are written with per cent signs, '@' as %40"


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


def read_address(address: str, base: Path) -> RedisAddress:
    """What `address` says; files that it names start from `base`. Raises `PluginError`, never with a part of it."""
    try:
        parts = urlsplit(address)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = None, None, None
    if parts is None or parts.scheme not in ("redis", "rediss") or not host or parts.fragment or port == 0:
        raise PluginError(_ESCAPE)
    tls = parts.scheme == "rediss"
    return RedisAddress(
        host=unquote(host),
        port=port or PORT,
        database=_database(parts.path),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=tls,
        files=_files(parts, base, tls),
    )


def _database(path: str) -> int:
    name = path.removeprefix("/")
    if name and not (name.isascii() and name.isdigit() and len(name) < 10):
        raise PluginError(_ESCAPE)
    return int(name or 0)


def _files(parts: SplitResult, base: Path, tls: bool) -> tuple[tuple[str, str], ...]:
    """The certificates that the address names. Nothing else may be said there, least of all that none is checked."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in FILES or name in found or not tls:
            raise PluginError(f"the store's address takes no options but, with rediss://, {', '.join(FILES)}")
        path = base / value
        if not value or not path.is_file():
            raise PluginError(f"the file that {name} names in the store's address is not there")
        found[name] = str(path)
    return tuple(found.items())
