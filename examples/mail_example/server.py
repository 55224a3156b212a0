"""A small mail server behind `policies.yaml`: `python server.py` serves it over stdio. Its tools know of no rule."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from fastmcp import FastMCP

from mcp_macaroon_middleware import guard

POLICIES = Path(__file__).with_name("policies.yaml")
MAKE_A_KEY = """\
This server needs a signing key of its own. Make one for this terminal:

  export MACAROON_SECRET_KEY="$(mcp-macaroon keys new --print)"
"""

MAILS: dict[str, list[dict[str, Any]]] = {
    "inbox": [
        {
            "id": 1,
            "sender": "carol@example.org",
            "subject": "Lunch?",
            "body": "At noon, the usual place. The door code is 4711.",
            "attachments": [{"name": "menu.pdf", "bytes": 48_211}],
        },
        {
            "id": 2,
            "sender": "bank@example.com",
            "subject": "Your statement",
            "body": "Your balance is 1,204.20.",
            "attachments": [{"name": "statement.pdf", "bytes": 90_113}, {"name": "terms.pdf", "bytes": 12_004}],
        },
    ],
    "archive": [
        {
            "id": 3,
            "sender": "dave@example.org",
            "subject": "Draft",
            "body": "Comments by Friday, please.",
            "attachments": [{"name": "draft.docx", "bytes": 30_772}],
        }
    ],
}

mcp: FastMCP[Any] = FastMCP("mail")


@mcp.tool
def read_emails(folder: str = "inbox") -> list[dict[str, Any]]:
    """Reads every mail of a folder: inbox or archive."""
    return MAILS.get(folder, [])


@mcp.tool
def send_mail(to: str, subject: str, text: str) -> str:
    """Sends a mail."""
    return f"sent {subject!r} to {to}"


@mcp.tool
def admin_tool(command: str) -> str:
    """Runs a command of the mail server's administrator."""
    return f"ran {command}"


def guarded() -> FastMCP[Any]:
    """The server with its policy. Exits with 2, and says what to do, if there is no key."""
    if not os.environ.get("MACAROON_SECRET_KEY"):
        print(MAKE_A_KEY, file=sys.stderr)
        sys.exit(2)
    guard(mcp, POLICIES)
    return mcp


if __name__ == "__main__":
    guarded().run(show_banner=False)
