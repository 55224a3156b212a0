"""Walks through the server as Alice, who maintains, and as Bob, who reads: `python client.py`, while `server.py` runs.

It answers the server's questions by itself. `--legacy` speaks the protocol of 2025-11-25 instead of that of 2026-07-28.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastmcp import Client


class Person:
    """Stands for the person at the client: shows each question and answers it with `says`."""

    def __init__(self) -> None:
        self.says = "deny"

    async def __call__(self, message: str, response_type: Any, params: Any, context: Any) -> dict[str, str]:
        """The server's question is a form; every field of it is one choice."""
        fields = params.requested_schema["properties"]
        print("    the server asks:")
        for line in message.splitlines():
            print(f"      | {line}".rstrip())
        for offers in fields.values():
            print(f"    offered: {'; '.join(offer['title'] for offer in offers['oneOf'])}")
        print(f"    answered: {self.says}")
        return dict.fromkeys(fields, self.says)


class Story:
    """Calls tools one after the other and prints what came of it."""

    def __init__(self, client: Client[Any], person: Person) -> None:
        self.client, self.person = client, person

    async def tools(self, who: str) -> None:
        """What the list shows to this caller."""
        names = sorted(tool.name for tool in await self.client.list_tools())
        print(f"\n=== {who}, protocol {self.client.protocol_version}\n  tools: {', '.join(names)}")

    async def call(self, title: str, tool: str, says: str = "deny", /, **arguments: Any) -> None:
        """One call; `says` is what the person answers, if there is a question."""
        self.person.says = says
        print(f"\n{title}\n  {tool} {json.dumps(arguments)}")
        result: Any = await self.client.call_tool(tool, arguments, raise_on_error=False)
        if result.is_error:
            facts: Mapping[str, Any] = (result.meta or {}).get("mcp-macaroon", {})
            print(f"  refused: {result.content[0].text} (code: {facts.get('code', 'none')})")
            return
        answer = result.structured_content
        for item in answer["result"] if list(answer) == ["result"] else [answer]:
            print(f"  {json.dumps(item)}")


async def alice(story: Story) -> None:
    """Alice maintains the organisation."""
    call = story.call
    await story.tools("Alice")
    await call("The repository, without addresses and without the values of secrets.", "get_repo", repo="acme/website")
    await call("Of secrets only the names.", "get_secret_names", repo="acme/website")
    await call("Carol's address: yes, this once.", "get_user", "once", login="carol")
    await call("Dave's address: no.", "get_user", "deny", login="dave")
    for number in (1, 2, 3, 4):
        await call("Three issues a minute may be opened.", "create_issue", repo="acme/docs", title=f"No. {number}")
    await call("A repository that our own rule does not name.", "create_issue", repo="acme/payroll", title="Hello")
    await call("A merge, and from now on for a while.", "merge_pull_request", "period", repo="acme/website", number=7)
    await call("Another one: nobody is asked now.", "merge_pull_request", repo="acme/website", number=8)
    await call("Deleting needs a ticket.", "delete_repo", "once", repo="acme/sandbox", ticket="none")
    await call("Deleting asks.", "delete_repo", "once", repo="acme/sandbox", ticket="OPS-12")
    await call("It asks every time.", "delete_repo", "deny", repo="acme/payroll", ticket="OPS-13")


async def bob(story: Story) -> None:
    """Bob reads."""
    call = story.call
    await story.tools("Bob")
    await call("What is there.", "list_repos")
    await call("Issues without addresses.", "list_issues", repo="acme/website")
    await call("Carol, without her address: nobody is even asked.", "get_user", "once", login="carol")
    await call("A tool that is not there for Bob.", "delete_repo", "once", repo="acme/website", ticket="OPS-14")
    await call("Alice's issues do not count for Bob.", "create_issue", repo="acme/docs", title="From Bob")


async def main() -> None:
    """Connects as one and then as the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--legacy", action="store_true", help="speak the protocol of 2025-11-25")
    options = parser.parse_args()
    for walk in (alice, bob):
        async with connected(f"{walk.__name__}-on-loopback", options) as story:
            await walk(story)


@asynccontextmanager
async def connected(token: str, options: argparse.Namespace) -> Any:
    """A client with a person at it."""
    person, mode = Person(), "legacy" if options.legacy else "auto"
    url = f"http://127.0.0.1:{options.port}/mcp"
    async with Client(url, auth=token, elicitation_handler=person, mode=mode) as client:
        yield Story(client, person)


if __name__ == "__main__":
    asyncio.run(main())
