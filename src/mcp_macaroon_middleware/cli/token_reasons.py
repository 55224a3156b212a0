"""Why a token does not count, in words for the operator. A client never learns this much."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "token_format": "this is no token: it is cut, changed, or something else",
    "token_too_large": "it is longer, or has more caveats, than a token may",
    "token_identifier": "this is a macaroon, but none that mcp-macaroon makes",
    "token_audience": "it was made for another server",
    "token_key_unknown": "the key that signed it is not in the ring",
    "token_signature": "the signature does not hold: forged, changed, or made with another key",
    "token_unsigned_caveat": "somebody appended a caveat without signing it",
    "token_caveat": "an end or a branch in it cannot be read",
    "token_too_broad": "it names no end",
    "token_expired": "it has ended",
    "token_not_yet_valid": "it was issued in the future; look at the clocks",
    "token_revoked": "it is revoked: itself, one that it was narrowed from, its key, or its principal",
    "token_before_epoch": "it is older than the store; what was revoked before may be lost, so it counts no more",
    "token_not_narrowed": "it was not narrowed from the token of this process",
    "token_invalid": "it is not valid",
    "discharge_format": "a discharge is cut, changed, or something else",
    "discharge_too_large": "a discharge is longer, or has more caveats, than one may",
    "discharge_missing": "a third party has not vouched for it: a discharge is missing",
    "discharge_unbound": "the discharges are not bound to it; a request sends them as  token bind  prints them",
    "discharge_unused": "a discharge answers nothing that it asks for",
    "discharge_twice": "a discharge is given twice",
    "discharge_too_many": "there are too many discharges",
    "discharge_too_deep": "discharges ask for discharges too deep",
    "discharge_unknown_party": "it asks for a third party that is not in the file's third_party",
    "discharge_ticket": "a ticket does not open: made for another party or server, or under another secret",
    "discharge_invalid": "a discharge names no end, or holds a branch",
    "store_unavailable": "the store does not answer, so nobody can know whether it is revoked",
}


def in_words(code: str) -> str:
    """The reason behind a code, with the code for programs and the audit record."""
    return f"{REASONS.get(code, 'it is not valid')} [{code}]"
