"""What the law tests share: documents, tokens as holders could write them, and how to compare what was seen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError
from mcp_macaroon_middleware.tokens import KeyRing, VerifiedToken, attenuate, mint, verify
from mcp_macaroon_middleware.tokens.macaroons import append

KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")
AUDIENCE = "mail"

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text("abc", max_size=3)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "body", "sender", "name", "items", "key", "a.b"]), inner, max_size=5)
    ),
    max_leaves=20,
)


def token_of(texts: list[str]) -> VerifiedToken:
    """A verified token that carries these caveats, as a holder could have written them."""
    token = mint(KEYS, subject="alice", audience=AUDIENCE, expires=timedelta(hours=1))
    for text in texts:
        token = _attenuated(token, text)
    return verify(KEYS, token, audience=AUDIENCE)


def _attenuated(token: str, text: str) -> str:
    """Appends a caveat even where `attenuate` would not write it: a holder may use any macaroon library."""
    try:
        return attenuate(token, text)
    except RuleError:
        return append(token, text)


def flat(document: Any, path: tuple[Any, ...] = ()) -> set[Any]:
    """Every leaf of a document; positions in lists do not count, since a withheld item moves the others."""
    if isinstance(document, dict):
        return {("key", path, key) for key in document}.union(*(flat(v, (*path, k)) for k, v in document.items()))
    if isinstance(document, list):
        return set().union(*(flat(item, (*path, "[]")) for item in document))
    return {(path, repr(document))}
