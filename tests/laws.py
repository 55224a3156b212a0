"""What the law tests share: components, documents, tokens as holders could write them, how to compare what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import RuleError
from mcp_macaroon_middleware.model import Component, Kind
from mcp_macaroon_middleware.tokens import (
    KeyRing,
    ThirdParty,
    VerifiedToken,
    attenuate,
    bind,
    discharge,
    macaroons,
    mint,
    require,
    unmet,
    verify,
)

KEYS = KeyRing.from_secret("a secret of at least thirty-two bytes, for tests only")
AUDIENCE = "mail"
PARTY = ThirdParty(location="duty", key=KeyRing.from_secret("a secret that a third party has, for tests only"))

TOOLS = [Component(kind=Kind.TOOL, name=name, names=(name,)) for name in ("read_mail", "read_all", "send_mail", "wipe")]
OTHERS = [
    Component(kind=Kind.TOOL, name="front_read", names=("front_read", "mail/read_mail", "read_mail")),
    Component(kind=Kind.PROMPT, name="read_mail", names=("read_mail",)),
    Component(kind=Kind.PROMPT, name="write", names=("write", "mail/write")),
    Component(kind=Kind.RESOURCE, name="mail://all", names=("mail://all",), uri="mail://all"),
    Component(kind=Kind.RESOURCE, name="mail://{id}", names=("mail://{id}",), uri="mail://1"),
]
components = st.sampled_from([*TOOLS, *OTHERS])

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text("abc", max_size=3)
documents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "body", "sender", "name", "items", "key", "a.b"]), inner, max_size=5)
    ),
    max_leaves=20,
)


def token_of(texts: Sequence[str], vouched: Sequence[str] | None = None) -> VerifiedToken:
    """A verified token that carries these caveats, as a holder could have written them.

    With `vouched` a third party has vouched for it, and its discharge carries those.
    """
    token = mint(KEYS, subject="alice", audience=AUDIENCE, expires=timedelta(hours=1))
    if vouched is not None:
        token = require(token, PARTY, subject="alice", audience=AUDIENCE)
    for text in texts:
        token = _attenuated(token, text)
    discharges = bind(token, [_vouching(ticket, vouched or ()) for _, ticket in unmet(token)])
    return verify(KEYS, token, audience=AUDIENCE, discharges=discharges, parties={PARTY.location: PARTY})


def _vouching(ticket: bytes, texts: Sequence[str]) -> str:
    """A discharge with these caveats, whatever they say: a service may use any macaroon library."""
    made = macaroons.from_text(discharge(PARTY.open(ticket), ticket), macaroons.DISCHARGE)
    return macaroons.to_text(macaroons.extend(made, list(texts)), macaroons.DISCHARGE)


def _attenuated(token: str, text: str) -> str:
    """Appends a caveat even where `attenuate` would not write it: a holder may use any macaroon library."""
    try:
        return attenuate(token, text)
    except RuleError:
        return macaroons.append(token, text)


def flat(document: Any, path: tuple[Any, ...] = ()) -> set[Any]:
    """Every leaf of a document; positions in lists do not count, since a withheld item moves the others."""
    if isinstance(document, dict):
        return {("key", path, key) for key in document}.union(*(flat(v, (*path, k)) for k, v in document.items()))
    if isinstance(document, list):
        return set().union(*(flat(item, (*path, "[]")) for item in document))
    return {(path, repr(document))}
