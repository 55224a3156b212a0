"""The bank behind both programs, in memory."""

from __future__ import annotations

from typing import Any

CUSTOMERS: dict[int, dict[str, Any]] = {
    1: {"number": 1, "name": "Carol", "national_id": "120-55-0199", "iban": "DE02120300000000202051"},
    2: {"number": 2, "name": "Dave", "national_id": "120-55-0277", "iban": "DE02500105170137075030"},
}


def transfer(amount: int) -> dict[str, Any]:
    """Books a transfer."""
    return {"booked": amount}
