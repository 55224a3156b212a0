"""A bank in memory, and who may knock: a static table of bearer tokens, for this example on loopback only."""

from __future__ import annotations

from typing import Any

TOKENS: dict[str, dict[str, Any]] = {
    "alice-on-loopback": {"sub": "alice", "groups": ["tellers"]},
    "bob-on-loopback": {"sub": "bob", "groups": ["guests"]},
}

CUSTOMERS: dict[int, dict[str, Any]] = {
    1: {
        "id": 1,
        "name": "Carol",
        "national_id": "120-55-0199",
        "accounts": [{"kind": "current", "iban": "DE02120300000000202051", "balance": 1204}],
    },
    2: {
        "id": 2,
        "name": "Dave",
        "national_id": "120-55-0277",
        "accounts": [{"kind": "savings", "iban": "DE02500105170137075030", "balance": 80}],
    },
}

BOOKED: list[dict[str, Any]] = []


def customer(number: int) -> dict[str, Any]:
    """A customer with everything that is known. Raises `KeyError`."""
    return CUSTOMERS[number]


def transfer(sender: int, receiver: int, amount: int) -> dict[str, Any]:
    """Books a transfer."""
    BOOKED.append({"number": len(BOOKED) + 1, "from": sender, "to": receiver, "amount": amount})
    return BOOKED[-1]
