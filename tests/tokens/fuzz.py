"""A longer search for what parse and verify do not expect, guided by coverage: `python tests/tokens/fuzz.py [SECONDS]`.

Needs `atheris`. Inputs stand for tokens, and for discharges beside a good token, bound and as a service gives them. It
ends with an error for any exception but `TokenInvalid`, for anything that is accepted, and for an input that takes
longer than a second.
"""

from __future__ import annotations

import base64
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["mcp_macaroon_middleware.tokens", "mcp_macaroon_middleware.rules"]):
    from mcp_macaroon_middleware.errors import TokenInvalid
    from mcp_macaroon_middleware.tokens import (
        KeyRing,
        ThirdParty,
        answers,
        bind,
        discharge,
        inspect,
        macaroons,
        mint,
        require,
        unmet,
        verify,
    )

KEYS = KeyRing.from_secret(secrets.token_hex(32))
GOOD = mint(KEYS, subject="alice", audience="mail", caveats=["bf:*:tool_access:only:read_*"])
PARTY = ThirdParty(location="duty", key=KeyRing.from_secret(secrets.token_hex(32)))
WAITING = require(GOOD, PARTY, subject="alice", audience="mail")
((_, TICKET),) = unmet(WAITING)
GIVEN = discharge(PARTY.open(TICKET), TICKET, caveats=["bf:*:tool_access:only:read_*"])
(BOUND,) = bind(WAITING, [GIVEN])
SEEDS = {text: macaroons.encode(macaroons.from_text(text, text[:3])) for text in (GOOD, WAITING, GIVEN, BOUND)}

Reader = Callable[[], Any]


def one(data: bytes) -> None:
    """One input: as a token, as a discharge beside a token that waits for one, as the ticket in it."""
    provider = atheris.FuzzedDataProvider(data)
    prefix = provider.PickValueInList([macaroons.PREFIX, macaroons.DISCHARGE])
    text = made(provider, prefix)
    if text in SEEDS:
        return
    began = time.perf_counter()
    readers, verifiers = as_token(text) if prefix == macaroons.PREFIX else as_discharge(text)
    if not all(refuses(read) for read in verifiers):
        raise RuntimeError("something was accepted that nobody signed")
    for read in readers:
        refuses(read)
    refuses(lambda: PARTY.open(data))
    if time.perf_counter() - began > 1:
        raise RuntimeError("an input took longer than a second")


def made(provider: Any, prefix: str) -> str:
    """A text, the bytes behind a prefix, or a good text's beginning with other bytes after it."""
    kind = provider.ConsumeIntInRange(0, 2)
    if kind == 0:
        return str(provider.ConsumeUnicode(20_000))
    raw = b""
    if kind == 2:
        seed = SEEDS[provider.PickValueInList([text for text in SEEDS if text.startswith(prefix)])]
        raw = seed[: provider.ConsumeIntInRange(0, len(seed))]
    return prefix + base64.urlsafe_b64encode(raw + provider.ConsumeBytes(10_000)).decode().rstrip("=")


def as_token(text: str) -> tuple[list[Reader], list[Reader]]:
    """What reads a token, and what must refuse this one."""
    with_discharge = [lambda: checked(text, BOUND), lambda: checked(text, GIVEN)]
    return [lambda: inspect(text), lambda: unmet(text)], [lambda: checked(text), *with_discharge]


def as_discharge(text: str) -> tuple[list[Reader], list[Reader]]:
    """What reads a discharge, and what must refuse this one: alone, bound, beside a good one."""
    readers = [lambda: answers(text, TICKET), lambda: unmet(WAITING, [text])]
    waiting = [lambda: checked(WAITING, text), lambda: checked(WAITING, *bind(WAITING, [text]))]
    return readers, [*waiting, lambda: checked(WAITING, BOUND, text), lambda: checked(GOOD, text)]


def checked(token: str, *discharges: str) -> Any:
    """The token, verified with these discharges."""
    return verify(KEYS, token, audience="mail", discharges=discharges, parties={PARTY.location: PARTY})


def refuses(read: Reader) -> bool:
    """Whether it raises what it may; any other exception passes."""
    try:
        read()
    except TokenInvalid:
        return True
    return False


if __name__ == "__main__":
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=20000"], one)
    atheris.Fuzz()
