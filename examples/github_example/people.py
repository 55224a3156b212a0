"""Who may knock: a static table of bearer tokens, for this example on loopback and for nothing else."""

from __future__ import annotations

from typing import Any

WHERE: dict[str, Any] = {"iss": "acme", "client_id": "example", "scopes": []}
"""Who vouches for these people, and which client program the tokens were made for."""

TOKENS: dict[str, dict[str, Any]] = {
    "alice-on-loopback": {**WHERE, "sub": "alice", "groups": ["maintainers"]},
    "bob-on-loopback": {**WHERE, "sub": "bob", "groups": ["readers"]},
}
"""Alice maintains the organisation, Bob reads it. A real server has a provider here, such as FastMCP's GitHub OAuth."""
