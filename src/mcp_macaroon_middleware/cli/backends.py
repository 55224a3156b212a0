"""What `protect` stands before, a command or a URL, and where it serves. No caller's credential is ever passed on."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from ..config.keys import VARIABLE as SECRET_KEY
from ..config.references import referenced_files, referenced_variables
from ..config.runtime import Runtime, load_runtime
from ..errors import BindError, ConfigError
from .server_names import server_name

START: Final = 60.0
TELLING: Final = 8
"""Characters from which on a text is told from others: a shorter secret may stand anywhere by chance."""
PASSED: Final = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "APPDATA",
        "COMSPEC",
        "HOMEDRIVE",
        "HOMEPATH",
        "LOCALAPPDATA",
        "PATHEXT",
        "PROCESSOR_ARCHITECTURE",
        "SYSTEMDRIVE",
        "SYSTEMROOT",
        "USERNAME",
        "USERPROFILE",
    }
)
"""The variables that programs need to start at all; none of them is a secret."""
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.+)\Z")


class Address(NamedTuple):
    """Where HTTP is served. `port` 0 is any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return _is_loopback(self.host)

    @property
    def url(self) -> str:
        """The endpoint."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/mcp"


def address(text: str) -> Address:
    """`HOST:PORT`, `:PORT` or `PORT`. Raises `ConfigError` for anything else."""
    host, _, port = text.rpartition(":")
    host = (host or "127.0.0.1").removeprefix("[").removesuffix("]")
    if not port.isdecimal() or not port.isascii() or int(port) > 65_535:
        raise ConfigError(f"--http takes HOST:PORT or a port, not {text!r}")
    return Address(host, int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The server that is guarded: `command` started here, or `url` reached over HTTP with `headers`."""

    command: tuple[str, ...] = ()
    url: str | None = None
    headers: tuple[str, ...] = field(default=(), repr=False)
    env: tuple[str, ...] = field(default=(), repr=False)
    cwd: Path | None = None
    allow_plaintext: bool = False

    def __post_init__(self) -> None:
        if self.url is None:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--url takes an address that begins with https:// (or http:// on this machine)")
        if parts.username or parts.password:
            raise ConfigError("--url takes no user or password; write  --header 'Authorization: env:NAME'")
        if parts.scheme == "http" and not _is_loopback(parts.hostname) and not self.allow_plaintext:
            raise ConfigError(
                f"{parts.hostname} would be reached without encryption; use https://, or allow it by --allow-plaintext"
            )

    @property
    def name(self) -> str:
        """The name that clients see: the package's, or else the program's."""
        try:
            return server_name(self.command, self.url)
        except ConfigError:
            return Path(self.command[0]).name

    def transport(self, ours: Secrets) -> Any:
        """FastMCP's transport to it. Raises `ConfigError` for a header or variable that cannot be had, or is ours."""
        from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

        if self.url is not None:
            ours.refuse("--url", self.url)
            return StreamableHttpTransport(
                self.url, headers=headers_of(self.headers, ours), httpx_client_factory=_http_client
            )
        for word in self.command:
            ours.refuse("the command line", word)
        folder = str(self.cwd) if self.cwd is not None else None
        return StdioTransport(self.command[0], list(self.command[1:]), env=environment(self.env, ours), cwd=folder)


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What the policy file takes from outside: the guard's own, which nothing that it guards may have."""

    variables: frozenset[str] = frozenset()
    files: frozenset[Path] = frozenset()
    texts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, runtime: Runtime) -> Secrets:
        """Every variable and file that a policy file refers to, by itself or by default, with what they hold."""
        source, tokens = runtime.compiled.source, runtime.settings.tokens
        variables = {SECRET_KEY, *referenced_variables(source.data)}
        if tokens is not None and tokens.variable is not None:
            variables.add(tokens.variable)
        files = frozenset((source.base / name).resolve() for name in referenced_files(source.data))
        held = [os.environ.get(name, "").strip() for name in variables]
        for path in files:
            with contextlib.suppress(OSError, UnicodeError):
                held.append(path.read_text(encoding="utf-8").strip())
        return cls(frozenset(variables), files, frozenset(text for text in held if len(text) >= TELLING))

    def refuse(self, where: str, text: str) -> None:
        """Raises `ConfigError` for a text that bears one of these secrets; it never shows it."""
        if any(secret in text for secret in self.texts):
            raise ConfigError(f"{where} bears a secret of the policy file, which is never handed to the server behind")

    def refuse_variable(self, where: str, name: str) -> None:
        """Raises `ConfigError` for a variable of the policy file."""
        if name in self.variables:
            raise ConfigError(
                f"{where}: the policy file refers to {name}, which is never handed to the server behind; "
                "give the two different variables"
            )


def headers_of(given: tuple[str, ...], ours: Secrets) -> dict[str, str]:
    """`Name: value` pairs; a value may be `env:NAME` or `file:PATH`. Errors never show a value."""
    found: dict[str, str] = {}
    for each in given:
        match = _HEADER.match(each)
        if match is None:
            raise ConfigError("--header takes 'Name: value'")
        name, value = match[1], _value(match[1], match[2].strip(), ours)
        if not value or any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise ConfigError(f"--header {name}: the value is empty or has control characters")
        ours.refuse(f"--header {name}", value)
        found[name] = value
    return found


def _value(name: str, text: str, ours: Secrets) -> str:
    if text.startswith("env:"):
        ours.refuse_variable(f"--header {name}", text[4:])
        value = os.environ.get(text[4:])
        if not value:
            raise ConfigError(f"--header {name}: the environment variable {text[4:]} is not set")
        return value
    if text.startswith("file:"):
        if Path(text[5:]).resolve() in ours.files:
            raise ConfigError(f"--header {name}: the policy file refers to {text[5:]}, which is the guard's own")
        try:
            return Path(text[5:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigError(f"--header {name}: {text[5:]} cannot be read: {why}") from None
    return text


def environment(pairs: tuple[str, ...], ours: Secrets) -> dict[str, str]:
    """The server's environment: what programs need to start at all, and what `--env` gives.

    Whatever else is in ours may be a secret. What the policy file refers to is refused even where `--env` names it:
    the key that signs our tokens is never handed to the server that we guard. Raises `ConfigError`.
    """
    found = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LC_")}
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not key:
            raise ConfigError(f"--env takes NAME=VALUE or NAME, not {pair!r}")
        ours.refuse_variable(f"--env {key}", key)
        if not given and key not in os.environ:
            raise ConfigError(f"--env {key}: there is no such variable here")
        found[key] = value if given else os.environ[key]
        ours.refuse(f"--env {key}", found[key])
    return {name: value for name, value in found.items() if name not in ours.variables}


# --- serving ---------------------------------------------------------------------------------------------------------


async def serve(backend: Backend, config: Path, name: str, place: Address | None, *, open_network: bool) -> None:
    """Starts or reaches the server, binds the guard and serves until the client goes away or somebody interrupts."""
    from fastmcp.server import create_proxy
    from fastmcp.server.providers.proxy import ProxyClient

    from ..adapters.fastmcp import MacaroonAuth, bind

    runtime = load_runtime(config)
    transport = backend.transport(Secrets.of(runtime))
    listener: socket.socket | None = None
    try:
        if place is not None:
            _check_callers(runtime, place, open_network=open_network)
            listener = _listener(place)
        target: Any = transport
        if backend.url is not None:  # a caller's credentials are for us, and never for the server behind
            target = ProxyClient(transport, mode="auto", forward_incoming_headers=False)
        settings: dict[str, Any] = {"name": name} | ({} if backend.url is not None else {"mode": "auto"})
        if place is not None and runtime.bearers is not None:
            settings["auth"] = MacaroonAuth(runtime)
        proxy: Any = create_proxy(target, **settings)
        await _started(proxy, backend)
        bound = await bind(proxy, runtime)
        for line in bound.report.lines():
            print(f"mcp-macaroon: {line}", file=sys.stderr)
        if place is not None and listener is not None:
            await _serve_http(proxy, place, listener)
        else:
            await proxy.run_stdio_async(show_banner=False)
    finally:
        if listener is not None:
            listener.close()
        await transport.close()
        await runtime.close()


def _check_callers(runtime: Runtime, place: Address, *, open_network: bool) -> None:
    """Whether anybody could call at all, and whether everybody could. Raises `ConfigError`."""
    if runtime.bearers is not None:
        return
    if runtime.settings.identity.anonymous is None:
        raise ConfigError(
            "over HTTP nobody could call: the policy file neither accepts tokens (config: tokens: {}) nor names "
            "callers without a credential (config: identity: {anonymous: NAME})"
        )
    if not place.is_loopback and not open_network:
        raise ConfigError(
            f"everybody who reaches {place.host} could call without a credential; accept tokens (config: tokens: "
            "{}), serve on 127.0.0.1, or say --allow-anonymous-network"
        )


async def _serve_http(proxy: Any, place: Address, listener: socket.socket) -> None:
    real = Address(place.host, listener.getsockname()[1])
    print(f"mcp-macaroon: serving at {real.url}", file=sys.stderr, flush=True)
    await proxy.run_http_async(
        show_banner=False,
        host=place.host,
        port=real.port,
        path="/mcp",
        log_level="error",
        host_origin_protection="auto",
        sockets=[listener],
    )


def _listener(place: Address) -> socket.socket:
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        if listener is not None:
            listener.close()
        why = error.strerror or type(error).__name__
        raise ConfigError(f"cannot serve at {place.host}:{place.port}: {why}; choose another port") from None
    return listener


async def _started(proxy: Any, backend: Backend) -> None:
    """Starts or reaches the server, by speaking to it once. Raises `BindError` where that cannot be done."""
    try:
        async with asyncio.timeout(START), proxy.client_factory():
            return
    except Exception as error:
        if backend.url is not None:
            raise BindError(
                f"no MCP server answers at {urlsplit(backend.url).hostname} ({type(error).__name__}); "
                "check the address and its --header"
            ) from None
        raise BindError(
            f"the server {backend.command[0]!r} does not start, or speaks no MCP ({type(error).__name__}); "
            "run it by itself"
        ) from None


def _http_client(headers: Mapping[str, str] | None = None, timeout: Any = None, auth: Any = None, **_: Any) -> Any:
    """Follows no redirect: headers with secrets are for the named server alone."""
    import httpx2

    timeout = timeout or httpx2.Timeout(30.0, read=300.0)
    return httpx2.AsyncClient(headers=headers, timeout=timeout, auth=auth, follow_redirects=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
