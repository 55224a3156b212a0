"""A longer search for what parse and verify do not expect, guided by coverage: `python tests/tokens/fuzz.py [SECONDS]`.

Needs `atheris`. It ends with an error for any exception but `TokenInvalid`, for anything that is accepted, and for an
input that takes longer than a second.
"""

from __future__ import annotations

import base64
import secrets
import sys
import time

import atheris

with atheris.instrument_imports(include=["mcp_macaroon_middleware.tokens", "mcp_macaroon_middleware.rules"]):
    from mcp_macaroon_middleware.errors import TokenInvalid
    from mcp_macaroon_middleware.tokens import KeyRing, inspect, macaroons, mint, verify

KEYS = KeyRing.from_secret(secrets.token_hex(32))
GOOD = mint(KEYS, subject="alice", audience="mail", caveats=["bf:*:tool_access:only:read_*"])
SEED = macaroons.encode(macaroons.from_text(GOOD))


def one(data: bytes) -> None:
    """One input: as a text, as the bytes of a token, as a token's caveats."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 2)
    if kind == 0:
        text = provider.ConsumeUnicode(20_000)
    elif kind == 1:
        text = "mm_" + base64.urlsafe_b64encode(provider.ConsumeBytes(10_000)).decode().rstrip("=")
    else:
        at, rest = provider.ConsumeIntInRange(0, len(SEED)), provider.ConsumeBytes(10_000)
        text = "mm_" + base64.urlsafe_b64encode(SEED[:at] + rest).decode().rstrip("=")
    if text == GOOD:
        return
    began = time.perf_counter()
    for read in (inspect, lambda given: verify(KEYS, given, audience="mail")):
        try:
            read(text)
        except TokenInvalid:
            continue
        if read is not inspect:
            raise RuntimeError("something was accepted that nobody signed")
    if time.perf_counter() - began > 1:
        raise RuntimeError("an input took longer than a second")


if __name__ == "__main__":
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=20000"], one)
    atheris.Fuzz()
