"""Who may knock: a static table of bearer tokens, for this example on loopback and for nothing else."""

from __future__ import annotations

from typing import Any

TOKENS: dict[str, dict[str, Any]] = {
    "alice-on-loopback": {"client_id": "example", "scopes": [], "sub": "alice", "groups": ["maintainers"]},
    "bob-on-loopback": {"client_id": "example", "scopes": [], "sub": "bob", "groups": ["readers"]},
}
"""Alice maintains the organisation, Bob reads it. A real server has a provider here, such as FastMCP's GitHub OAuth."""
