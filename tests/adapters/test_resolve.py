"""A request is judged by the component that it really runs: hashed names, mounts, renames, aliases, versions, URIs."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.apps import FastMCPApp
from fastmcp.server import create_proxy
from fastmcp.server.middleware.tool_injection import ToolInjectionMiddleware
from fastmcp.server.providers.addressing import hashed_backend_name
from fastmcp.server.transforms import Namespace, PromptsAsTools, ResourcesAsTools, ToolTransform
from fastmcp.tools import Tool
from fastmcp.tools.tool_transform import ArgTransform, ArgTransformConfig, ToolTransformConfig, forward
from guarded import ERAS, code_of, guarded, text_of
from mcp.shared.exceptions import MCPError

from mcp_macaroon_middleware.adapters.fastmcp import census, uris

RAN: list[str] = []


def family() -> tuple[FastMCP[Any], FastMCP[Any], FastMCP[Any]]:
    """A root with a child with a grandchild."""
    RAN.clear()
    grand: FastMCP[Any] = FastMCP("grand")
    child: FastMCP[Any] = FastMCP("child")
    root: FastMCP[Any] = FastMCP("root")

    @grand.tool
    def secret(path: str = "docs/a") -> str:
        RAN.append(f"secret {path}")
        return f"secret {path}"

    @grand.resource("data://x/{id}")
    def item(id: str) -> str:
        RAN.append(f"item {id}")
        return id

    @grand.prompt
    def ask(name: str) -> str:
        return name

    @child.tool
    def delete() -> str:
        RAN.append("delete")
        return "deleted"

    @child.tool
    async def meta(ctx: Context) -> str:
        return (await ctx.fastmcp.call_tool("delete", {})).content[0].text

    child.mount(grand, namespace="g")
    root.mount(child, namespace="ns")
    return root, child, grand


EVERYTHING = "bf:*:tool_access:allow"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", ["ns_delete", "delete", "child/delete"])
@pytest.mark.threat("J02")
async def test_a_mounted_tool_can_be_denied_by_its_public_its_own_and_its_path_name(era: str, name: str) -> None:
    root, _, _ = family()
    guarded(root, [EVERYTHING, f"bf:{name}:tool_access:deny"])
    async with Client(root, mode=era) as client:
        assert "Unknown tool" in await text_of(client, "ns_delete")
        assert "ns_delete" not in {tool.name for tool in await client.list_tools()}
    assert RAN == []


@pytest.mark.parametrize(
    "name", ["ns_g_secret", "g_secret", "secret", "child/g_secret", "grand/secret", "child/grand/secret"]
)
@pytest.mark.threat("J02")
async def test_every_name_on_the_way_to_a_grandchild_restricts(name: str) -> None:
    root, _, _ = family()
    guarded(root, [EVERYTHING, f"bf:{name}:tool_access:deny"])
    async with Client(root) as client:
        assert "Unknown tool" in await text_of(client, "ns_g_secret")
    assert RAN == []


@pytest.mark.threat("J02")
async def test_only_the_public_name_grants() -> None:
    root, _, _ = family()
    made = guarded(root, ["bf:ns_*:tool_access:allow"])
    async with Client(root) as client:
        assert await text_of(client, "ns_delete") == "deleted"
    root, _, _ = family()
    guarded(root, ["bf:dele*:tool_access:allow"])
    async with Client(root) as client:
        assert "Unknown tool" in await text_of(client, "ns_delete")
    assert made.exactly_one_end_each()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("J02", "J08", "H05")
async def test_what_a_mounted_meta_tool_calls_is_judged_by_the_roots_names(era: str) -> None:
    root, _, _ = family()
    made = guarded(root, [EVERYTHING, "bf:ns_delete:tool_access:deny"])
    async with Client(root, mode=era) as client:
        assert "Unknown tool" in await text_of(client, "ns_meta")
    assert RAN == []
    assert made.exactly_one_end_each()


async def test_a_mounted_tool_called_by_a_tool_is_granted_by_its_public_name() -> None:
    root, _, _ = family()
    made = guarded(root, ["bf:ns_meta:tool_access:allow", "bf:ns_delete:tool_access:allow"])
    async with Client(root) as client:
        assert await text_of(client, "ns_meta") == "deleted"
    assert [(name, outcome) for name, outcome, _ in made.ends if name.startswith("ns_")] == [
        ("ns_delete", "ok"),
        ("ns_meta", "ok"),
    ]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("J03")
async def test_a_call_through_several_chains_is_decided_charged_and_recorded_once(era: str) -> None:
    root, child, _ = family()
    made = guarded(root, [EVERYTHING, "bf:*:rate_limit:allow:2/hour"])
    child.middleware.append(type(root.middleware[0])(guard=made.guard))
    async with Client(root, mode=era) as client:
        codes = [await code_of(client, "ns_g_secret") for _ in range(3)]
    assert codes == [None, None, "rate_limited"]
    assert len([end for end in made.ends if end[0] == "ns_g_secret"]) == 3
    assert made.exactly_one_end_each()


async def test_different_guards_all_decide_a_call_once_each() -> None:
    root, child, _ = family()
    inner = guarded(child, [EVERYTHING, "bf:delete:rate_limit:allow:1/hour"])
    outer = guarded(root, [EVERYTHING])
    async with Client(root) as client:
        assert await code_of(client, "ns_delete") is None
        assert "rate_limited" in await text_of(client, "ns_delete")
    assert [end[:2] for end in outer.ends if end[0] == "ns_delete"] == [("ns_delete", "ok"), ("ns_delete", "ok")]
    assert [end[:2] for end in inner.ends if end[0] == "delete"] == [("delete", "ok"), ("delete", "denied")]
    assert inner.exactly_one_end_each()
    assert outer.exactly_one_end_each()
    assert RAN == ["delete"]


async def test_a_mounted_server_is_guarded_for_what_enters_through_the_root() -> None:
    root, child, _ = family()
    guarded(root, ["bf:ns_meta:tool_access:allow"])
    async with Client(child) as client:
        assert await text_of(client, "delete") == "deleted"
    async with Client(root) as client:
        assert "Unknown" in await text_of(client, "ns_delete")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("J01")
async def test_a_hashed_app_name_gets_the_decision_of_its_tool(era: str) -> None:
    app = FastMCPApp("shop")

    @app.tool()
    def save(x: int) -> str:
        RAN.append("save")
        return "saved"

    RAN.clear()
    root: FastMCP[Any] = FastMCP("root")
    child: FastMCP[Any] = FastMCP("child")
    child.add_provider(app)
    root.mount(child, namespace="ns")
    hashed = hashed_backend_name("shop", "save")
    assert hashed.removeprefix("__").startswith(hashlib.sha256(b"shop\0save").hexdigest()[:12])
    made = guarded(root, [EVERYTHING, "bf:ns_save:tool_access:deny"])
    async with Client(root, mode=era) as client:
        assert await text_of(client, hashed, x=1) == f"Unknown tool: {hashed!r}"
        assert "Unknown tool" in await text_of(client, "ns_save", x=1)
    assert RAN == []
    assert [end[1] for end in made.ends if end[0] == "ns_save"] == ["denied", "denied"]


async def test_a_hashed_app_name_runs_where_its_tool_is_allowed_and_is_counted_with_it() -> None:
    app = FastMCPApp("shop")

    @app.tool()
    def save(x: int) -> str:
        return "saved"

    root: FastMCP[Any] = FastMCP("root")
    child: FastMCP[Any] = FastMCP("child")
    child.add_provider(app)
    root.mount(child, namespace="ns")
    made = guarded(root, ["bf:ns_save:tool_access:allow", "bf:ns_save:rate_limit:allow:2/hour"])
    hashed = hashed_backend_name("shop", "save")
    async with Client(root) as client:
        assert [await code_of(client, name, x=1) for name in (hashed, "ns_save", hashed)] == [
            None,
            None,
            "rate_limited",
        ]
    assert made.exactly_one_end_each()


def renamed() -> FastMCP[Any]:
    """A server whose tool is renamed by transforms and has an alias."""
    RAN.clear()
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    def write(path: str, mode: str = "r") -> str:
        RAN.append(f"write {path} {mode}")
        return path

    other = Tool.from_function(lambda path: RAN.append(path) or path, name="other")
    server.add_tool(other)
    server.add_tool(
        Tool.from_tool(
            write,
            name="save",
            transform_args={"path": ArgTransform(name="to"), "mode": ArgTransform(hide=True, default="w")},
        )
    )

    async def computed(path: str) -> Any:
        return await forward(path=f"docs/../{path}")

    server.add_tool(
        Tool.from_tool(
            write, name="clever", transform_fn=computed, transform_args={"mode": ArgTransform(hide=True, default="x")}
        )
    )
    return server


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("K10", "J02")
async def test_an_alias_is_restricted_by_the_name_of_what_it_runs_and_counted_with_it(era: str) -> None:
    made = guarded(renamed(), [EVERYTHING, "bf:write:rate_limit:allow:2/hour"])
    async with Client(made.server, mode=era) as client:
        codes = [
            await code_of(client, "save", to="a"),
            await code_of(client, "write", path="b"),
            await code_of(client, "save", to="c"),
        ]
    assert codes == [None, None, "rate_limited"]
    assert RAN == ["write a w", "write b r"]


async def test_renamed_arguments_are_judged_in_the_leafs_names_and_values() -> None:
    made = guarded(
        renamed(),
        [EVERYTHING, "bf:write:argument_allowlist:allow:path:docs", "bf:write:argument_allowlist:allow:mode:w"],
    )
    async with Client(made.server) as client:
        assert await code_of(client, "save", to="docs") is None
        assert await code_of(client, "save", to="etc") is not None
        assert await code_of(client, "write", path="docs") is not None
    assert RAN == ["write docs w"]
    assert made.exactly_one_end_each()


async def test_computed_arguments_are_judged_at_the_leaf_and_charged_once() -> None:
    rules = [EVERYTHING, "bf:write:path_allowlist:allow:docs/*", "bf:write:rate_limit:allow:2/hour"]
    made = guarded(renamed(), rules)
    async with Client(made.server) as client:
        refused = await code_of(client, "clever", path="etc/passwd")
    assert refused is not None
    assert RAN == []
    assert made.exactly_one_end_each()
    assert made.ends[-1][:2] == ("clever", "denied")


async def test_computed_arguments_that_pass_run_once() -> None:
    made = guarded(
        renamed(), [EVERYTHING, "bf:write:argument_allowlist:allow:path:docs/../x", "bf:write:rate_limit:allow:2/hour"]
    )
    async with Client(made.server) as client:
        assert [await code_of(client, "clever", path="x") for _ in range(3)] == [None, None, "rate_limited"]
    assert RAN == ["write docs/../x x"] * 2
    assert made.exactly_one_end_each()


@pytest.mark.parametrize(
    "transform",
    [
        Namespace("api"),
        ToolTransform(
            {"write": ToolTransformConfig(name="api_write", arguments={"path": ArgTransformConfig(name="to")})}
        ),
    ],
)
@pytest.mark.threat("J02")
async def test_a_server_wide_rename_does_not_escape_a_rule_on_the_old_name(transform: Any) -> None:
    server = renamed()
    server.add_transform(transform)
    guarded(server, [EVERYTHING, "bf:write:tool_access:deny"])
    async with Client(server) as client:
        assert "Unknown tool" in await text_of(client, "api_write", path="a", to="a")
    assert RAN == []


@pytest.mark.threat("J09")
async def test_another_case_is_another_name() -> None:
    made = guarded(renamed(), ["bf:write:tool_access:allow"])
    async with Client(made.server) as client:
        assert await text_of(client, "Write", path="a") == "Unknown tool: 'Write'"


async def test_versions_are_judged_and_run_as_asked() -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool(version="1")
    def v(a: int) -> str:
        return "one"

    @server.tool(name="v", version="2")
    def v2(a: int) -> str:
        return "two"

    made = guarded(server, ["bf:v:tool_access:allow"])
    async with Client(server) as client:
        assert (await client.call_tool("v", {"a": 1}, version="1")).data == "one"
        assert (await client.call_tool("v", {"a": 1})).data == "two"
        assert (await client.call_tool("v", {"a": 1}, version="3", raise_on_error=False)).is_error
    versions = [r["component"].get("version") for r in made.records.finals() if r["component"]["name"] == "v"]
    assert versions == ["1", "2", None]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.threat("J08", "H05", "I05")
async def test_resources_and_prompts_as_tools_are_judged_each_on_its_own(era: str) -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.resource("data://open")
    def opened() -> str:
        return "open"

    @server.resource("data://closed")
    def closed() -> str:
        RAN.append("closed")
        return "closed"

    @server.prompt
    def greet() -> str:
        return "hi"

    RAN.clear()
    server.add_transform(ResourcesAsTools(server))
    server.add_transform(PromptsAsTools(server))
    made = guarded(server, ["bf:tool=*:tool_access:allow", "bf:resource=data\\://open:tool_access:allow"])
    async with Client(server, mode=era) as client:
        assert await text_of(client, "read_resource", uri="data://open") == "open"
        assert "Unknown resource" in await text_of(client, "read_resource", uri="data://closed")
        assert "closed" not in await text_of(client, "list_resources")
        assert "greet" not in await text_of(client, "list_prompts")
    assert RAN == []
    assert made.exactly_one_end_each()


@pytest.mark.threat("J08")
async def test_injected_tools_are_judged_and_what_they_call_too() -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.tool
    def inner() -> str:
        RAN.append("inner")
        return "x"

    async def bulk(ctx: Context) -> str:
        for _ in range(2):
            await ctx.fastmcp.call_tool("inner", {})
        return "done"

    RAN.clear()
    server.add_middleware(ToolInjectionMiddleware([Tool.from_function(bulk)]))
    made = guarded(server, [EVERYTHING, "bf:inner:rate_limit:allow:1/hour", "bf:bulk:rate_limit:allow:5/hour"])
    async with Client(server) as client:
        assert "rate_limited" in await text_of(client, "bulk")
    assert RAN == ["inner"]
    assert all(r.get("nested") for r in made.records.finals() if r["component"]["name"] == "inner")
    assert made.exactly_one_end_each()


@pytest.mark.threat("J06")
async def test_a_proxied_server_is_guarded_and_its_annotations_are_not_believed() -> None:
    backend: FastMCP[Any] = FastMCP("backend")

    @backend.tool(annotations={"readOnlyHint": True})
    def erase(n: int, deep: bool = False) -> str:
        RAN.append(f"erase {n!r} {deep!r}")
        return "x"

    @backend.tool
    def look() -> dict[str, Any]:
        return {"a": 1, "ssn": 2}

    RAN.clear()
    server = create_proxy(backend)
    made = guarded(
        server,
        [
            "bf:look:tool_access:allow",
            "af:look:field_access:deny:ssn",
            "bf:erase:tool_access:allow",
            "bf:erase:argument_allowlist:allow:n:5",
        ],
    )
    async with Client(server) as client:
        assert (await client.call_tool("look", {})).structured_content == {"a": 1}
        for refused in ("5", 5.0, True, 6):
            assert (await client.call_tool("erase", {"n": refused}, raise_on_error=False)).is_error, refused
        await client.call_tool("erase", {"n": 5})
    assert RAN == ["erase 5 False"]
    assert made.exactly_one_end_each()


@pytest.mark.threat("J04")
async def test_a_component_that_comes_later_is_judged_and_its_first_appearance_recorded() -> None:
    server = renamed()
    made = guarded(server, ["bf:late*:tool_access:allow"])

    @server.tool
    def later() -> str:
        return "x"

    async with Client(server) as client:
        assert "Unknown tool" in await text_of(client, "write", path="x")
        assert await text_of(client, "later") == "x"
        assert await text_of(client, "later") == "x"
    events = [record for record in made.records if record["event"] == "component"]
    assert [(event["name"], len(event["digest"])) for event in events] == [("later", 64)]


async def test_a_server_that_is_mounted_later_is_guarded_too() -> None:
    root, _, _ = family()
    rules = ["bf:ns_meta:tool_access:allow", "bf:late_*:tool_access:allow", "bf:late_n*:tool_access:deny"]
    made = guarded(root, rules)
    late: FastMCP[Any] = FastMCP("late")

    @late.tool
    def yes(ctx: Context) -> str:
        return "yes"

    @late.tool
    def no() -> str:
        RAN.append("no")
        return "no"

    @late.tool
    async def sly(ctx: Context) -> str:
        return (await ctx.fastmcp.call_tool("no", {})).content[0].text

    root.mount(late, namespace="late")
    async with Client(root) as client:
        assert await text_of(client, "late_yes") == "yes"
        assert "Unknown tool" in await text_of(client, "late_no")
        assert "Unknown tool" in await text_of(client, "late_sly")
    assert RAN == []
    assert "late" in made.guard.report.lines()[0]


async def test_a_tool_replaced_by_another_of_its_name_has_another_digest() -> None:
    server: FastMCP[Any] = FastMCP("s", on_duplicate="replace")

    @server.tool
    def f(a: int) -> int:
        return a

    made = guarded(server, ["bf:f:tool_access:allow"])
    async with Client(server) as client:
        await client.call_tool("f", {"a": 1})
        made.guard.resolver._kept.clear()

        @server.tool(name="f")
        def g(a: int) -> int:
            return a + 1

        await client.call_tool("f", {"a": 1})
    digests = [r["component"]["digest"] for r in made.records.finals() if r["component"]["name"] == "f"]
    assert len(set(digests)) == 2


# --- resources ------------------------------------------------------------------------------------------------------


def rows() -> FastMCP[Any]:
    """A server with a templated resource, as file-like and as row-like."""
    RAN.clear()
    server: FastMCP[Any] = FastMCP("db")

    @server.resource("db://users/row/{id}{?view}")
    def row(id: int, view: str = "short") -> str:
        RAN.append(f"row {id} {view}")
        return f"row {id}"

    @server.resource("file://docs/{path*}", security=None)
    def file(path: str) -> str:
        RAN.append(f"file {path}")
        return f"file {path}"

    return server


ROWS = [
    "bf:resource=*:tool_access:allow",
    "bf:resource=db\\://users/row/1:tool_access:deny",
    "bf:resource=file\\://docs/secret:tool_access:deny",
]


async def read(server: FastMCP[Any], uri: str) -> str:
    """A read as the wire brings it, without the client's own normalisation."""
    async with Client(server) as client:
        try:
            result = await client.session.read_resource(uri)
        except MCPError as error:
            return str(error)
        return str(result.contents[0].text)


@pytest.mark.parametrize(
    "uri",
    [
        "db://users/row/1",
        "DB://users/row/1",
        "db://users/row/%31",
        "db://users/row/1?x=1",
        "db://users/row/1?view=long",
        "db://users/row/1#f",
        "db://users/row/./1",
        "db://users/x/../row/1",
        "file://docs/secret",
        "file://docs/%73ecret",
        "file://docs/./secret",
        "file://docs/x/../secret",
        "file://docs/x/%2e%2e/secret",
        "file://docs/x%2f..%2fsecret",
        "file://docs/x%5c..%5csecret",
        "file://docs/%252e%252e/secret",
        "file://docs/secret?x=1",
    ],
)
@pytest.mark.threat("I01", "I03")
async def test_every_spelling_of_a_denied_resource_is_denied(uri: str) -> None:
    server = rows()
    made = guarded(server, ROWS)
    assert "not found" in await read(server, uri)
    assert RAN == []
    assert made.exactly_one_end_each()


async def test_other_rows_are_read_and_recorded_by_their_template_and_one_spelling() -> None:
    server = rows()
    made = guarded(server, ROWS)
    assert await read(server, "db://users/row/%32?x=1") == "row 2"
    assert await read(server, "file://docs/a/b.md") == "file a/b.md"
    components = [r["component"] for r in made.records.finals() if r["component"]["kind"] == "resource"]
    assert [(c["name"], c["uri"]) for c in components] == [
        ("db://users/row/{id}{?view}", "db://users/row/2"),
        ("file://docs/{path*}", "file://docs/a/b.md"),
    ]


async def test_a_templates_parameters_are_judged_as_its_function_gets_them() -> None:
    server = rows()
    guarded(server, ["bf:resource=*:tool_access:allow", "bf:resource=db*:argument_allowlist:allow:id:2"])
    assert await read(server, "db://users/row/02") == "row 2"
    assert "row" not in await read(server, "db://users/row/3")


@pytest.mark.parametrize(
    "rule",
    [
        "bf:resource=data\\://ns/g/x/1:tool_access:deny",
        "bf:resource=data\\://x/1:tool_access:deny",
        "bf:resource=data\\://x/{id}:tool_access:deny",
    ],
)
async def test_a_mounted_template_is_denied_by_any_of_its_uris(rule: str) -> None:
    root, _, _ = family()
    guarded(root, [EVERYTHING, rule])
    assert "not found" in await read(root, "data://ns/g/x/1")
    assert RAN == []


async def test_a_mounted_template_and_prompt_are_read_through_every_server() -> None:
    root, _, _ = family()
    made = guarded(root, [EVERYTHING])
    assert await read(root, "data://ns/g/x/7") == "7"
    async with Client(root) as client:
        assert (await client.get_prompt("ns_g_ask", {"name": "Bo"})).messages[0].content.text == "Bo"
    assert made.exactly_one_end_each()
    assert len([end for end in made.ends if end[0].startswith(("data", "ns_g_ask"))]) == 2


def test_the_census_names_every_step() -> None:
    import asyncio

    root, _, _ = family()
    taken = asyncio.run(census.take(root))
    entry = taken.entries["tool", "ns_g_secret", None]
    assert entry.names[0] == "ns_g_secret"
    assert entry.names[-1] == "secret"
    assert {"child/g_secret", "grand/secret", "child/grand/secret"} <= set(entry.names)
    assert taken.complete


def test_an_unguarded_query_of_a_remote_template_is_an_objection() -> None:
    from fastmcp.resources import ResourceTemplate

    template = ResourceTemplate.from_function(lambda id, q="": id, "x://{id}{?q}", name="t")
    for query, ok in (("?q=1", True), ("?q=1&q=2", False), ("?z=1", False), ("", True)):
        uri = f"x://a{query}"
        assert (uris.objection(template, template.matches(uri) or {}, uri, remote=True) is None) is ok
        assert uris.objection(template, template.matches(uri) or {}, uri, remote=False) is None


@pytest.mark.threat("I03")
async def test_an_encoded_slash_is_no_part_of_a_parameter() -> None:
    server: FastMCP[Any] = FastMCP("s")

    @server.resource("x://{name}", security=None)
    def named(name: str) -> str:
        RAN.append(name)
        return name

    RAN.clear()
    guarded(server, ["bf:resource=*:tool_access:allow"])
    assert await read(server, "x://a") == "a"
    assert "not found" in await read(server, "x://a%2Fb")
    assert RAN == ["a"]
