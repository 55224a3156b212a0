"""A small Vault for tests: reading a KV engine of version 2 over real HTTP or TLS, and everything that can go wrong."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class SmallVault:
    """Secrets by path, for one token. What is asked is kept in `asked`; `rubbish` is what its bad answers hold."""

    def __init__(self, token: str, *, mount: str = "secret", certificate: Path | None = None) -> None:
        self.token, self.mount = token, mount
        self.secrets: dict[str, Any] = {}
        self.rubbish = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[SmallVault]:
        """Answers for as long as the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust us, is no news."""


def _handler(vault: SmallVault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            vault.asked.append((self.path, dict(self.headers)))
            path = self.path.removeprefix(f"/v1/{vault.mount}/data/")
            if path == self.path:
                return self.say(404, {"errors": []})
            if self.headers.get("X-Vault-Token") != vault.token:
                return self.say(403, {"errors": ["permission denied"]})
            return self.wrong(path) if path.startswith("wrong/") else self.read(path)

        def read(self, path: str) -> None:
            if path not in vault.secrets:
                return self.say(404, {"errors": []})
            return self.say(200, {"data": {"data": vault.secrets[path], "metadata": {"version": 1}}})

        def wrong(self, path: str) -> None:
            how = path.removeprefix("wrong/")
            if how == "hangs":
                vault.released.wait(30)
            elif how == "drips":
                self.drip()
            elif how == "redirects":
                self.send_response(307)
                self.send_header("Location", f"/v1/{vault.mount}/data/{next(iter(vault.secrets), 'gone')}")
                self.end_headers()
            elif how == "huge":
                self.say(200, {"data": {"data": {"key": vault.rubbish * 20_000}}})
            elif how.isdigit():
                self.say(int(how), {"errors": [f"it went wrong with {vault.rubbish}"]})
            else:
                bodies = {
                    "text": vault.rubbish.encode(),
                    "bytes": b"\xff" + vault.rubbish.encode(),
                    "version-1": json.dumps({"data": {"key": vault.rubbish}}).encode(),
                    "deep": b"[" * 60_000,
                    "deleted": b'{"data": {"data": null, "metadata": {"deletion_time": "2026-01-01T00:00:00Z"}}}',
                    "list": b'{"data": {"data": ["key"]}}',
                    "number": b'{"data": {"data": {"key": 12345678901234567890123456789012}}}',
                    "empty": b'{"data": {"data": {"key": ""}}}',
                    "nothing": b"",
                }
                self.say_bytes(200, bodies[how])

        def drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10000")
            self.end_headers()
            for _ in range(10_000):
                if vault.released.is_set():
                    return
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)

        def say(self, status: int, body: Any) -> None:
            self.say_bytes(status, json.dumps(body).encode())

        def say_bytes(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    return Handler


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a small Vault")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    plain = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "vault.pem"
    file.write_bytes(plain + made.public_bytes(encoding))
    return file
