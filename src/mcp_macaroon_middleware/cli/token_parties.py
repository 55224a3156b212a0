"""`mcp-macaroon token discharge | bind`: what a third party says for a token, and how its holder sends that along."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from ..config.references import Reference
from ..errors import TokenInvalid
from ..tokens import KeyRing, ThirdParty, bind, discharge
from ..tokens.describe import ticket_bytes
from ..tokens.discharges import LONGEST, Ticket
from ..tokens.keys import refuse_open_secret
from ..tokens.macaroons import PREFIX
from ..tokens.sentences import quoted
from .token import Json, Quiet, TokenFile, anything, no_words
from .token_input import InputMissing, given, words
from .token_narrowing import checked, read_span
from .token_output import DONE, FAILED, Misuse, answered, document, fail, note

HOLDER: Final = "this is a token, and it is not for third parties: pipe in what  token inspect --tickets  prints"

Opened = tuple[Ticket, bytes]


@answered
def discharge_tickets(
    *extra: Annotated[str, Parameter(show=False)],
    location: Annotated[str, Parameter(help="The location that caveats know this service by.")],
    key_file: Annotated[Path, Parameter(help="The file with the secret shared with the server.")],
    principal: Annotated[str | None, Parameter(help="Vouch for nobody but this subject.")] = None,
    expires: Annotated[str, Parameter(help="How long the discharge counts (5m, 1h); a day at most.")] = "5m",
    rule: Annotated[tuple[str, ...], Parameter(help="A rule that narrows the token on top.")] = (),
    ticket_file: Annotated[Path | None, Parameter(help="The file with tickets; default: standard input.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Vouch for tokens, as the third party that they ask for. It needs the secret shared with the server, and no key.

    Reads the lines of `token inspect --tickets` (tickets of other locations are left alone), or a ticket by itself.
    Satisfy yourself of the condition first: whom and what you vouch for is said on standard error.

        mcp-macaroon token inspect --tickets < my.token > my.tickets
        mcp-macaroon token discharge --location login --key-file login.secret < my.tickets > my.discharges

    Exit codes: 0 made, 1 no ticket of ours, or one that does not open, 2 a wrong call or key.
    """
    no_words(extra)
    refuse_open_secret(key_file)
    secret = Reference("file", str(key_file.absolute())).resolve(Path())
    party = ThirdParty(location=location, key=KeyRing.from_secret(secret))
    caveats, lasts = checked(rule, anything), read_span(expires, timedelta(seconds=LONGEST.total_seconds()))
    opened = [(party.open(sealed), sealed) for sealed in _tickets(words(ticket_file), location)]
    if not opened:
        return fail(f"there is no ticket for {quoted(location)}", FAILED)
    for ticket, _ in opened:
        if principal is not None and ticket.subject != principal:
            return fail(f"a ticket is about {quoted(ticket.subject)}, and --principal is not; nothing was made", FAILED)
    texts = [discharge(ticket, sealed, expires=lasts, caveats=caveats) for ticket, sealed in opened]
    if json_:
        document({"discharges": [_facts(each, text) for each, text in zip(opened, texts, strict=True)]})
    else:
        print("\n".join(texts))
    note((_vouched(ticket) for ticket, _ in opened), quiet=quiet)
    return DONE


@answered
def bind_discharges(
    *extra: Annotated[str, Parameter(show=False)],
    discharge: Annotated[tuple[Path, ...], Parameter(help="A file with discharges.")] = (),
    token_file: TokenFile = None,
    json_: Json = False,
) -> int:
    """Bind discharges to your token, so that they serve no other; requests send them so. It needs no key.

    Discharges may also follow the token at standard input. Send them beside the token, over HTTP in the header
    Macaroon-Discharge, separated by commas.

        mcp-macaroon token bind --token-file my.token --discharge my.discharges

    Exit codes: 0 bound, 1 something is no token or no discharge, 2 a wrong call.
    """
    no_words(extra)
    found = given(token_file, discharge)
    if not found.discharges:
        raise InputMissing("there is no discharge; name a file with --discharge")
    bound = bind(found.token, found.discharges)
    if json_:
        document({"discharges": list(bound)})
    else:
        print("\n".join(bound))
    return DONE


def _tickets(found: list[str], location: str) -> Iterator[bytes]:
    """The tickets of this location: each by itself, or after its location, as `token inspect --tickets` prints them."""
    if any(word.startswith(PREFIX) for word in found):
        raise Misuse(HOLDER)
    if len(found) == 1:
        yield ticket_bytes(found[0])
        return
    if len(found) % 2:
        raise TokenInvalid("discharge_ticket")
    for name, text in zip(found[::2], found[1::2], strict=True):
        if name == location:
            yield ticket_bytes(text)


def _vouched(ticket: Ticket) -> str:
    what = f"that {quoted(ticket.condition)} holds" if ticket.condition else "no condition is named"
    return f"vouched for {quoted(ticket.subject)} at {quoted(ticket.audience)}: {what}"


def _facts(opened: Opened, text: str) -> dict[str, str]:
    ticket, _ = opened
    return {
        "subject": ticket.subject,
        "audience": ticket.audience,
        "condition": ticket.condition,
        "discharge": text,
    }
