"""The commands under `mcp-macaroon token`, gathered; it is imported only when one of them is called."""

from __future__ import annotations

from typing import Final

from cyclopts import App, Parameter

from .token import attenuate, inspect, mint
from .token_checks import verify_token
from .token_parties import bind_discharges, discharge_tickets
from .token_revocation import revoke

app: Final = App(
    name="token",
    help="Tokens: made, narrowed, looked into, checked, revoked.",
    default_parameter=Parameter(negative=(), show_default=False),
)
app.command(mint, name="mint", sort_key=1)
app.command(attenuate, name="attenuate", sort_key=2)
app.command(inspect, name="inspect", sort_key=3)
app.command(verify_token, name="verify", sort_key=4)
app.command(revoke, name="revoke", sort_key=5)
app.command(discharge_tickets, name="discharge", sort_key=6)
app.command(bind_discharges, name="bind", sort_key=7)
