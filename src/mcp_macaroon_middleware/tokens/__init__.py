"""Tokens: macaroons that a holder can narrow alone and that whoever has the key can verify without a call.

`mint` makes one, `attenuate` narrows one without a key, `inspect` tells what one says, `verify` checks one. The
signature is a chain: each caveat's is keyed by the one before, so a caveat can be added by anyone and removed by
nobody. Whoever can verify can also mint for that audience, since the key is the same.
"""

from .credentials import Named, VerifiedToken, attenuate, holds, mint, named, verify
from .describe import Inspection, inspect
from .discharges import ThirdParty, Ticket, answers, bind, discharge, require, unmet
from .keys import KeyRing

__all__ = [
    "Inspection",
    "KeyRing",
    "Named",
    "ThirdParty",
    "Ticket",
    "VerifiedToken",
    "answers",
    "attenuate",
    "bind",
    "discharge",
    "holds",
    "inspect",
    "mint",
    "named",
    "require",
    "unmet",
    "verify",
]
