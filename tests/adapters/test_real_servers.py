"""Published servers, unchanged, behind `protect`: what reaches them is what was called, and what is withheld is gone.

The memory, filesystem, everything and Notion servers from npm, over stdio, in both protocol eras. The Notion server
talks to a stand-in for its API on loopback, which records every request as it arrives.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport

from mcp_macaroon_middleware.tokens.keys import new_secret

MODULES = Path(__file__).resolve().parents[2] / "tests" / "node" / "node_modules"
MEMORY = MODULES / "@modelcontextprotocol/server-memory/dist/index.js"
FILESYSTEM = MODULES / "@modelcontextprotocol/server-filesystem/dist/index.js"
EVERYTHING = MODULES / "@modelcontextprotocol/server-everything/dist/index.js"
NOTION = MODULES / "@notionhq/notion-mcp-server/bin/cli.mjs"
SECRET = "S-4471-secret"
ERAS = pytest.mark.parametrize("era", [{}, {"mode": "legacy"}], ids=["modern", "legacy"])

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CI") and (shutil.which("node") is None or not NOTION.exists()),
        reason="needs node and, in tests/node, npm ci",
    ),
    pytest.mark.timeout(120),
]


class Person:
    """Answers approval forms with one choice, and keeps what was shown."""

    def __init__(self, choice: str = "once") -> None:
        self.choice = choice
        self.shown: list[str] = []

    async def __call__(self, message: str, kind: Any, params: Any, context: Any) -> ElicitResult[Any]:
        self.shown.append(message)
        schema = params.requested_schema
        schema = schema if isinstance(schema, dict) else schema.model_dump(by_alias=True)
        return ElicitResult(action="accept", content=dict.fromkeys(schema["properties"], self.choice))


def policy_file(folder: Path, *rules: str, **config: Any) -> Path:
    path = folder / "policies.yaml"
    settings = {"default": "allow", "audit": [{"sink": "jsonl", "path": "audit.jsonl"}], **config}
    path.write_text(json.dumps({"config": settings, "policies": list(rules)}), encoding="utf-8")
    path.chmod(0o600)
    return path


@asynccontextmanager
async def connected(
    command: list[str], era: dict[str, Any], *, policy: Path | None, folder: Path, **more: Any
) -> AsyncIterator[Client[Any]]:
    """A client of a server: bare, or behind `protect` with a policy."""
    environment = {**os.environ, "MACAROON_SECRET_KEY": new_secret(), "NO_COLOR": "1", **more.pop("env", {})}
    named = [word for name in more.pop("passes", ()) for word in ("--env", name)]
    words = ["-m", "mcp_macaroon_middleware", "protect", "--config", str(policy), *named, "--", *command]
    program, arguments = (sys.executable, words) if policy is not None else (command[0], command[1:])
    transport = StdioTransport(program, arguments, env=environment, keep_alive=False, log_file=folder / "log")
    async with Client(
        transport, init_timeout=60, timeout=60, **(era if policy else {"mode": "legacy"}), **more
    ) as client:
        yield client


def seen(result: Any) -> str:
    """Everything of a result that reached the client, once more with its escapes read."""
    parts = [block.model_dump_json() for block in result.content]
    parts.append(json.dumps([result.structured_content, result.meta], ensure_ascii=False, default=str))
    whole = " ".join(parts)
    return whole + whole.replace("\\\\", "\\").replace('\\"', '"')


# --- memory -----------------------------------------------------------------------------------------------------------

ENTITY = {"name": "ann", "entityType": "person", "observations": [SECRET]}


@ERAS
@pytest.mark.threat("R09")
@pytest.mark.parametrize("path", ["entities.observations", "**.observations"])
async def test_reports_mcp_f2_the_memory_servers_texts_hold_no_withheld_observation(
    path: str, era: dict[str, Any], tmp_path: Path
) -> None:
    memory = {"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")}
    policy = policy_file(tmp_path, f"af:*:field_access:deny:{path}")
    command = ["node", str(MEMORY)]
    async with connected(
        command, era, policy=policy, folder=tmp_path, env=memory, passes=["MEMORY_FILE_PATH"]
    ) as client:
        made = await client.call_tool("create_entities", {"entities": [ENTITY]})
        read = await client.call_tool("read_graph", {})
        found = await client.call_tool("search_nodes", {"query": "ann"})
        opened = await client.call_tool("open_nodes", {"names": ["ann"]})
    for result in (made, read, found, opened):
        assert SECRET not in seen(result)
        assert '"ann"' in seen(result)
        assert result.structured_content["entities"] == [{"name": "ann", "entityType": "person"}]
    assert SECRET in (tmp_path / "memory.jsonl").read_text()


@ERAS
@pytest.mark.parametrize("answer", ["deny", "once"])
async def test_a_question_about_the_memory_servers_field_is_answered_in_every_rendering(
    answer: str, era: dict[str, Any], tmp_path: Path
) -> None:
    memory = {"MEMORY_FILE_PATH": str(tmp_path / "memory.jsonl")}
    policy = policy_file(tmp_path, "af:create_entities:field_access:elicit:entities.observations")
    person = Person(answer)
    async with connected(
        ["node", str(MEMORY)],
        era,
        policy=policy,
        folder=tmp_path,
        env=memory,
        passes=["MEMORY_FILE_PATH"],
        elicitation_handler=person,
    ) as client:
        made = await client.call_tool("create_entities", {"entities": [ENTITY]}, raise_on_error=False)
    assert len(person.shown) == 1
    assert (SECRET in seen(made)) == (answer == "once")


# --- filesystem -------------------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.threat("R09", "R10")
async def test_reports_mcp_f2_a_withheld_content_of_the_filesystem_server_leaves_in_no_text(
    era: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    texts = {
        "a.json": json.dumps({"ssn": SECRET, "k": 1}),
        "b.txt": f"{SECRET} plain",
        "c.jsonl": f'{{"ssn": "{SECRET}"}}\n{{"k": 1}}\n',
        "d.cut": f'{{"ssn": "{SECRET}", "k": [1,',
    }
    for name, text in texts.items():
        (data / name).write_text(text)
    policy = policy_file(tmp_path, "af:read_*:field_access:deny:content")
    command = ["node", str(FILESYSTEM), str(data)]
    async with connected(command, era, policy=policy, folder=tmp_path) as client:
        for name in texts:
            result = await client.call_tool("read_text_file", {"path": str(data / name)}, raise_on_error=False)
            assert SECRET not in seen(result), name
        several = await client.call_tool(
            "read_multiple_files", {"paths": [str(data / name) for name in texts]}, raise_on_error=False
        )
        assert SECRET not in seen(several)
        listed = await client.call_tool("list_directory", {"path": str(data)})
        assert "a.json" in seen(listed)


@ERAS
@pytest.mark.threat("R03", "R05")
async def test_a_path_policy_holds_for_every_spelling_that_the_filesystem_server_takes(
    era: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "docs").mkdir(parents=True)
    (data / "docs" / "a.md").write_text("hello")
    (data / "secret.md").write_text(SECRET)
    policy = policy_file(tmp_path, f"bf:read_*:path_allowlist:allow:{data}/docs/*")
    spellings = [
        "docs/../secret.md",
        "docs//../secret.md",
        "docs/./../secret.md",
        "secret.md",
        "secret.md/",
        "docs/%2e%2e/secret.md",
    ]
    async with connected(["node", str(FILESYSTEM), str(data)], era, policy=policy, folder=tmp_path) as client:
        good = await client.call_tool("read_text_file", {"path": str(data / "docs" / "a.md")})
        assert "hello" in seen(good)
        for spelling in spellings:
            result = await client.call_tool("read_text_file", {"path": f"{data}/{spelling}"}, raise_on_error=False)
            assert result.is_error, spelling
            assert SECRET not in seen(result), spelling
            both = [str(data / "docs" / "a.md"), f"{data}/{spelling}"]
            result = await client.call_tool("read_multiple_files", {"paths": both}, raise_on_error=False)
            assert SECRET not in seen(result), spelling


# --- everything -------------------------------------------------------------------------------------------------------

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("echo", {"message": "hi"}),
    ("get-sum", {"a": 1, "b": 2}),
    ("get-structured-content", {"location": "New York"}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-resource-links", {"count": 2}),
    ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
    ("get-tiny-image", {}),
]


def plain(result: Any) -> Any:
    return [
        block.model_dump(exclude_none=True, exclude={"meta"}) for block in result.content
    ], result.structured_content


@ERAS
async def test_what_no_rule_reaches_leaves_the_everything_server_as_it_came(
    era: dict[str, Any], tmp_path: Path
) -> None:
    policy = policy_file(tmp_path, "bf:*:tool_access:allow", "bf:trigger-*:tool_access:deny")
    command = ["node", str(EVERYTHING)]
    async with connected(command, era, policy=None, folder=tmp_path) as client:
        bare = {name: plain(await client.call_tool(name, arguments)) for name, arguments in CALLS}
    async with connected(command, era, policy=policy, folder=tmp_path) as client:
        guarded = {name: plain(await client.call_tool(name, arguments)) for name, arguments in CALLS}
    timed = {"get-resource-reference"}  # its text says when it was read
    for name in bare.keys() - timed:
        assert guarded[name] == bare[name], name


@ERAS
@pytest.mark.threat("R06", "R09")
async def test_the_everything_servers_calls_hold_under_fields_arguments_and_questions(
    era: dict[str, Any], tmp_path: Path
) -> None:
    policy = policy_file(
        tmp_path,
        "af:get-structured-content:field_access:deny:humidity",
        "bf:get-sum:argument_range:allow:a:0:10",
        "bf:get-resource-links:tool_access:elicit",
    )
    person = Person()
    async with connected(
        ["node", str(EVERYTHING)], era, policy=policy, folder=tmp_path, elicitation_handler=person
    ) as client:
        listed = {tool.name: tool for tool in await client.list_tools()}
        weather = await client.call_tool("get-structured-content", {"location": "New York"})
        assert set(weather.structured_content) == {"temperature", "conditions"}
        assert "humidity" not in seen(weather)
        assert "humidity" not in json.dumps(listed["get-structured-content"].output_schema)
        assert "3" in seen(await client.call_tool("get-sum", {"a": 1, "b": 2}))
        assert (await client.call_tool("get-sum", {"a": 11, "b": 2}, raise_on_error=False)).is_error
        assert not person.shown
        # the schema's default (3 links) is the server's own affair: it is neither sent nor left out of the question
        links = await client.call_tool("get-resource-links", {})
        assert sum(block.type == "resource_link" for block in links.content) == 3
    assert len(person.shown) == 1
    assert "count" in person.shown[0]


# --- Notion -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def notion() -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A stand-in for the Notion API, and what arrived there: method, path, body."""
    arrived: list[tuple[str, str, Any]] = []

    class Api(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            arrived.append((self.command, self.path, json.loads(body or b"null")))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"object": "block", "id": "x", "note": SECRET}).encode())

        do_POST = do_GET = do_DELETE = do_PATCH

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", arrived
    server.shutdown()
    server.server_close()
    thread.join()


EDIT = {"block_id": "b1", "type": {"paragraph": {"rich_text": []}}}
NOTION_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("API-update-a-block", EDIT),
    ("API-patch-page", {"page_id": "p1", "properties": {}}),
    ("API-patch-block-children", {"block_id": "b1", "children": []}),
    ("API-retrieve-a-page", {"page_id": "p1"}),
    ("API-post-search", {"query": "x"}),
]


@ERAS
@pytest.mark.threat("R06")
@pytest.mark.parametrize(
    "rules",
    [
        [
            f"bf:{name}:argument_allowlist:allow:{argument}:*"
            for name, argument in (("API-update-a-block", "block_id"), ("API-patch-page", "page_id"))
        ],
        ["bf:*:tool_access:elicit"],
        ["bf:*:rate_limit:allow:100/minute", "af:*:field_access:deny:note"],
    ],
    ids=["arguments", "asked", "fields"],
)
async def test_reports_mcp_f1_what_arrives_at_notion_is_what_was_called(
    rules: list[str], era: dict[str, Any], tmp_path: Path, notion: tuple[str, list[tuple[str, str, Any]]]
) -> None:
    base, arrived = notion
    env = {"BASE_URL": base, "NOTION_TOKEN": "ntn_test", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = ["node", str(NOTION)]
    async with connected(command, era, policy=None, folder=tmp_path, env=env) as client:
        for name, arguments in NOTION_CALLS:
            await client.call_tool(name, arguments)
    bare = list(arrived)
    assert len(bare) == len(NOTION_CALLS)
    arrived.clear()
    policy = policy_file(tmp_path, *rules)
    async with connected(
        command, era, policy=policy, folder=tmp_path, env=env, passes=list(env), elicitation_handler=Person()
    ) as client:
        for name, arguments in NOTION_CALLS:
            result = await client.call_tool(name, arguments)
            assert (SECRET in seen(result)) == ("af:*:field_access:deny:note" not in rules)
    assert arrived == bare
