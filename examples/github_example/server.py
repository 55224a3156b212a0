"""A server over a remote API, behind `policies.yaml`: `python server.py` serves it on http://127.0.0.1:8000/mcp.

Its tools hand on what the API says. Who sees what of it is the policy's business alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from fake_github import FakeGitHub
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from people import TOKENS

from mcp_macaroon_middleware import guard

POLICIES = Path(__file__).with_name("policies.yaml")
MAKE_A_KEY = """\
This server needs a signing key of its own. Make one for this terminal:

  export MACAROON_SECRET_KEY="$(mcp-macaroon keys new --print)"
"""

github = FakeGitHub()
mcp: FastMCP[Any] = FastMCP("github", auth=StaticTokenVerifier(TOKENS))


@mcp.tool
def list_repos() -> list[dict[str, Any]]:
    """Lists the repositories."""
    return github.repositories()


@mcp.tool
def get_repo(repo: str) -> dict[str, Any]:
    """Describes a repository, such as acme/website."""
    return github.repository(repo)


@mcp.tool
def get_user(login: str) -> dict[str, Any]:
    """Describes a user."""
    return github.user(login)


@mcp.tool
def get_secret_names(repo: str) -> list[dict[str, Any]]:
    """Lists the secrets of a repository's builds."""
    return github.secrets(repo)


@mcp.tool
def list_issues(repo: str) -> list[dict[str, Any]]:
    """Lists the issues of a repository."""
    return github.issues(repo)


@mcp.tool
def create_issue(repo: str, title: str) -> dict[str, Any]:
    """Opens an issue."""
    return github.create_issue(repo, title)


@mcp.tool
def merge_pull_request(repo: str, number: int) -> dict[str, Any]:
    """Merges a pull request."""
    return github.merge(repo, number)


@mcp.tool
def delete_repo(repo: str, ticket: str) -> dict[str, Any]:
    """Deletes a repository for good. The ticket says who asked for it."""
    return github.delete(repo)


def main() -> int:
    """Serves until it is stopped; returns 2 if there is no key."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--stdio", action="store_true", help="serve the one client on standard input and output")
    options = parser.parse_args()
    if not os.environ.get("MACAROON_SECRET_KEY"):
        print(MAKE_A_KEY, file=sys.stderr)
        return 2
    guard(mcp, POLICIES)
    if options.stdio:
        mcp.run(show_banner=False)
    else:
        quiet = {"access_log": False}
        mcp.run("http", host="127.0.0.1", port=options.port, show_banner=False, uvicorn_config=quiet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
