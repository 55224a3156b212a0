"""What verifying a token costs by its caveats: ours cold and cached, plain pymacaroons, HMAC alone, biscuits.

`hmac` is the floor: one HMAC-SHA256 a caveat, which no macaroon can do without. A biscuit's blocks are signed with
Ed25519, so whoever verifies cannot mint; that is what its time buys.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import importlib.util
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Bench
from pymacaroons import MACAROON_V2, Macaroon, Verifier

from mcp_macaroon_middleware.tokens import KeyRing, attenuate, mint, verify

COUNTS = (1, 5, 20, 60)
Verify = Callable[[], object]


def ours(count: int, *, cached: bool) -> Verify:
    """A token with that many caveats, its end among them."""
    keys = KeyRing.from_secret(secrets.token_hex(32))
    rules = [f"bf:*:tool_access:only:read_{n}" for n in range(count - 1)]
    token = mint(keys, subject="alice", audience="mail", caveats=rules)

    def run() -> object:
        if not cached:
            keys.verified.clear()
        return verify(keys, token, audience="mail")

    return run


def narrowed(count: int) -> Verify:
    """Cold, where each caveat was added by another holder: each adds its branch too."""
    keys = KeyRing.from_secret(secrets.token_hex(32))
    token = mint(keys, subject="alice", audience="mail")
    for number in range((count - 1) // 2):
        token = attenuate(token, f"bf:*:tool_access:only:read_{number}")

    def run() -> object:
        keys.verified.clear()
        return verify(keys, token, audience="mail")

    return run


def plain(count: int) -> Verify:
    """pymacaroons as its documents use it."""
    key = secrets.token_hex(32)
    macaroon = Macaroon(location="mail", identifier="alice", key=key, version=MACAROON_V2)
    for number in range(count):
        macaroon.add_first_party_caveat(f"bf:*:tool_access:only:read_{number}")
    text = macaroon.serialize()

    def run() -> object:
        verifier = Verifier()
        verifier.satisfy_general(lambda _: True)
        return verifier.verify(Macaroon.deserialize(text), key)

    return run


def floor(count: int) -> Verify:
    """The chain alone."""
    key = secrets.token_bytes(32)
    caveats = [f"bf:*:tool_access:only:read_{number}".encode() for number in range(count)]

    def run() -> object:
        signature = hmac.digest(key, b"alice", hashlib.sha256)
        for caveat in caveats:
            signature = hmac.digest(signature, caveat, hashlib.sha256)
        return signature

    return run


def biscuit(count: int) -> Verify | None:
    """A biscuit with that many blocks, parsed and its signatures verified; None where it is not installed."""
    try:
        biscuit_auth: Any = importlib.import_module("biscuit_auth")
    except ImportError:
        return None
    pair = biscuit_auth.KeyPair()
    token = biscuit_auth.BiscuitBuilder("user({u})", {"u": "alice"}).build(pair.private_key)
    for number in range(count):
        block = "check if operation($op), $op.starts_with({p})"
        token = token.append(biscuit_auth.BlockBuilder(block, {"p": f"read_{number}"}))
    text = token.to_base64()
    return lambda: biscuit_auth.Biscuit.from_base64(text, pair.public_key)


KINDS: dict[str, Callable[[int], Verify | None]] = {
    "HMAC-SHA256 alone (the floor)": floor,
    "pymacaroons": plain,
    "**verify, cold**": lambda count: ours(count, cached=False),
    "**verify, cold, narrowed step by step**": narrowed,
    "**verify, cached**": lambda count: ours(count, cached=True),
    "biscuit-python, signatures alone": biscuit,
}


def verifying(bench: Bench) -> list[str]:
    """The table; with biscuits where they are there, or can be installed for this run alone."""
    if bench.size != "tiny" and importlib.util.find_spec("biscuit_auth") is None:
        install("biscuit-python", bench.folder / "biscuit")
    return measure(bench.rounds(1_000))


def install(what: str, folder: Path) -> None:
    """Puts a distribution where this process finds it and nobody else does; without a network it does nothing."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    try:
        done = subprocess.run([*pip, "--target", str(folder), what], capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return
    if done.returncode == 0:
        sys.path.append(str(folder))


def measure(rounds: int) -> list[str]:
    """A markdown table: median microseconds, interleaved."""
    lines = [f"| verifying a token, median µs | {' | '.join(f'{count} caveats' for count in COUNTS)} |"]
    lines.append("|---|" + "---:|" * len(COUNTS))
    cells: dict[str, list[str]] = {name: [] for name in KINDS}
    for count in COUNTS:
        calls = {name: call for name, make in KINDS.items() if (call := make(count)) is not None}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - began) * 1e6)
        for name in KINDS:
            cells[name].append(f"{statistics.median(times[name]):.1f}" if name in times else "not installed")
    return lines + [f"| {name} | {' | '.join(values)} |" for name, values in cells.items()]
