"""Walks the original's document from top to bottom: what it prints works, or stands in the list of what we left."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastmcp import Client, FastMCP

import mcp_macaroon_middleware
from mcp_macaroon_middleware import (
    Caveat,
    ConfigError,
    MacaroonMiddleware,
    PolicyEngine,
    PolicyViolationError,
    guard,
    policy_enforcer,
)
from mcp_macaroon_middleware.errors import ApprovalRequired
from mcp_macaroon_middleware.model import Action, ActionType, ExecutionPhase
from mcp_macaroon_middleware.rules import parse_rule

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "tests" / "data" / "seed" / "mcp_macaroon_middleware-2.0.0.txt").read_text(encoding="utf-8")
SECRET = "a secret of at least thirty-two bytes, for tests only"
BLOCKS = [(match[1], match[2]) for match in re.finditer(r"```(\w*)\n(.*?)```", DOCUMENT, re.DOTALL)]
LINES = sorted(
    line for _, block in BLOCKS for line in re.findall(r'"((?:bf|af):[^"]+)"', block) if not line.endswith("params...")
)


def block(language: str, holds: str) -> str:
    """The document's one snippet in this language that holds a text."""
    found = [text for name, text in BLOCKS if name == language and holds in text]
    assert found, f"the document has no {language} snippet with {holds!r}"
    return found[0]


def configured(policies: list[Any], **config: Any) -> dict[str, Any]:
    return {"config": {"secret_key": SECRET, **config}, "policies": policies}


# --- policy lines ---------------------------------------------------------------------------------------------------


def test_the_document_has_policy_lines() -> None:
    assert len(LINES) >= 8


@pytest.mark.parametrize("line", LINES)
def test_every_policy_line_reads_as_the_document_says(line: str) -> None:
    phase, tool, policy, action, *params = line.split(":")
    rule = parse_rule(line)
    assert (rule.phase, rule.target.pattern, rule.policy, rule.action) == (phase, tool, policy, action)
    assert rule.params == tuple(params)


def test_the_quick_starts_policies_load_and_its_placeholder_key_is_refused(tmp_path: Path) -> None:
    text = block("yaml", "your-secret-key-here")
    path = tmp_path / "policies.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        MacaroonMiddleware(config_path=str(path))
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"keys_invalid"}
    assert "mcp-macaroon keys new" in str(caught.value)
    path.write_text(text.replace("your-secret-key-here", SECRET), encoding="utf-8")
    middleware = MacaroonMiddleware(config_path=str(path))
    assert isinstance(middleware.policy_engine, PolicyEngine)


# --- the quick start, on a real server ------------------------------------------------------------------------------


async def test_the_quick_starts_rules_do_what_their_comments_say() -> None:
    server: FastMCP[Any] = FastMCP("mail")

    @server.tool
    def read_emails() -> dict[str, Any]:
        return {"subject": "Hi", "body": "secret", "attachments": ["a.pdf"]}

    @server.tool
    def admin_tool() -> str:
        return "done"

    policies = yaml.safe_load(block("yaml", "your-secret-key-here"))["policies"]
    guard(server, configured(policies))
    async with Client(server) as client:
        assert (await client.call_tool("read_emails")).structured_content == {"subject": "Hi"}
        assert [tool.name for tool in await client.list_tools()] == ["read_emails"]
        refused = await client.call_tool("admin_tool", raise_on_error=False)
        assert refused.is_error


# --- custom enforcers -----------------------------------------------------------------------------------------------


def run_snippet(source: str, name: str, hour: int) -> Any:
    """Runs a documented enforcer as it is printed, under another policy name and at a given hour."""

    class Frozen:
        @staticmethod
        def now() -> Any:
            from datetime import datetime

            return datetime(2026, 1, 5, hour)

    space: dict[str, Any] = {
        "policy_enforcer": policy_enforcer,
        "PolicyViolationError": PolicyViolationError,
        "Caveat": Caveat,
        "Context": Any,
        "List": list,
    }
    code = source.replace('"business_hours"', f'"{name}"')
    exec(compile(code, "<document>", "exec"), space)
    space["datetime"] = Frozen
    return space


@pytest.mark.parametrize("holds", ["caveat: Caveat, context: Context", "from datetime import datetime"])
@pytest.mark.parametrize(("hour", "passes"), [(8, False), (9, True), (16, True), (17, False)])
async def test_the_documented_custom_enforcer_works_as_printed(holds: str, hour: int, passes: bool) -> None:
    name = f"business_hours_{abs(hash((holds, hour)))}"
    run_snippet(block("python", holds), name, hour)
    engine = MacaroonMiddleware(config=configured([f"bf:sensitive_tool:{name}:allow"])).policy_engine
    context = mcp_macaroon_middleware.RequestContext(user_id="alice")
    call = engine.enforce_policies(None, "bf", tool_name="sensitive_tool", context=context)
    if passes:
        await call
        return
    with pytest.raises(PolicyViolationError, match="business hours"):
        await call


async def test_the_documented_signature_binds_every_argument_by_name() -> None:
    seen: dict[str, Any] = {}

    @policy_enforcer("seed_signature")
    def my_enforcer(caveat: Any, context: Any, result: Any, macaroon: Any, *params: Any) -> list[Any]:
        seen.update(caveat=caveat, context=context, result=result, macaroon=macaroon, params=params)
        return []

    engine = MacaroonMiddleware(config=configured(["bf:tool:seed_signature:allow:one:two"])).policy_engine
    context = mcp_macaroon_middleware.RequestContext(user_id="alice", ip_address="10.0.0.1", arguments={"a": 1})
    await engine.enforce_policies(None, "bf", tool_name="tool", context=context)
    caveat = seen["caveat"]
    assert isinstance(caveat, Caveat)
    assert caveat.raw == "bf:tool:seed_signature:allow:one:two"
    assert (caveat.execution_phase, caveat.action) == (ExecutionPhase.BEFORE, ActionType.ALLOW)
    assert (caveat.tool_name, caveat.policy_name, caveat.params) == ("tool", "seed_signature", ("one", "two"))
    assert caveat.expiry is None
    assert seen["params"] == ("one", "two")
    assert seen["result"] is None
    assert seen["context"].user_id == "alice"
    assert seen["context"].ip_address == "10.0.0.1"
    assert (seen["context"].message.name, dict(seen["context"].message.arguments)) == ("tool", {"a": 1})
    assert not hasattr(seen["macaroon"], "caveats")
    assert not hasattr(seen["macaroon"], "signature")


def test_the_caveat_model_has_the_documented_fields_in_order() -> None:
    documented = re.findall(r"^    (\w+):", block("python", "class Caveat"), re.MULTILINE)
    assert list(inspect.signature(Caveat).parameters) == documented
    assert {phase.name for phase in ExecutionPhase} >= {"BEFORE", "AFTER"}
    assert {action.name for action in Action} >= {"ALLOW", "DENY", "ELICIT"}


# --- without a framework --------------------------------------------------------------------------------------------


async def test_the_documented_request_handler_runs_as_printed(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(
        f"config: {{secret_key: '{SECRET}', default: deny}}\n"
        "policies:\n"
        "  - 'bf:my_protected_function:tool_access:allow'\n"
        "  - 'bf:my_protected_function:allow_attempts:allow:2'\n"
        "  - 'af:my_protected_function:field_access:deny:ssn'\n",
        encoding="utf-8",
    )
    path.chmod(0o600)

    def my_protected_function(params: Any) -> dict[str, Any]:
        return {"name": params["name"], "ssn": "123-45-6789"}

    class Request:
        user_id = "alice"
        params = {"name": "Carol"}

    space: dict[str, Any] = {"my_protected_function": my_protected_function}
    code = block("python", "async def handle_request").replace("./policies.yaml", str(path))
    exec(compile(code, "<document>", "exec"), space)
    for _ in range(2):
        assert await space["handle_request"](Request()) == {"name": "Carol"}
    with pytest.raises(PolicyViolationError):
        await space["handle_request"](Request())


async def test_what_is_not_allowed_raises_and_what_asks_raises_with_its_challenges() -> None:
    policies = ["bf:ok:tool_access:allow", "bf:ask:tool_access:elicit"]
    engine = MacaroonMiddleware(config=configured(policies, default="deny")).policy_engine
    context = mcp_macaroon_middleware.RequestContext(user_id="alice")
    assert await engine.enforce_policies("m", "bf", tool_name="ok", context=context) == "m"
    assert await engine.enforce_policies("m", ExecutionPhase.AFTER, tool_name="ok", context=context, result=5) == (
        5,
        "m",
    )
    with pytest.raises(PolicyViolationError) as denied:
        await engine.enforce_policies("m", "bf", tool_name="no", context=context)
    assert not isinstance(denied.value, ApprovalRequired)
    with pytest.raises(ApprovalRequired) as asked:
        await engine.enforce_policies("m", "bf", tool_name="ask", context=context)
    assert asked.value.challenges


async def test_a_macaroon_is_a_view_of_the_principal() -> None:
    middleware = MacaroonMiddleware(config=configured([]))
    first, again = await middleware._get_or_create_macaroon("alice"), await middleware._get_or_create_macaroon("alice")
    other = await middleware._get_or_create_macaroon("bob")
    assert first.id == again.id != other.id


# --- API names ------------------------------------------------------------------------------------------------------


def test_every_documented_import_works() -> None:
    imports = {
        line for _, text in BLOCKS for line in re.findall(r"^from mcp_macaroon_middleware\S* import .+$", text, re.M)
    }
    assert len(imports) >= 3
    for line in sorted(imports):
        exec(line, {})


def test_the_middleware_has_the_documented_parts() -> None:
    parameters = inspect.signature(MacaroonMiddleware).parameters
    assert next(iter(parameters)) == "config_path"
    assert list(inspect.signature(MacaroonMiddleware.on_call_tool).parameters)[1:] == ["context", "call_next"]


# --- rule kinds that the document's examples use --------------------------------------------------------------------

KINDS: list[tuple[list[str], dict[str, Any], dict[str, Any] | None]] = [
    (["bf:run:repo_whitelist:allow:good"], {"repo": "good"}, {"repo": "evil"}),
    (["bf:run:path_whitelist:allow:docs/*:*.md"], {"path": "docs/a"}, {"path": "docs/../secret"}),
    (["bf:run:path_allowlist:allow:docs/*:*.md"], {"path": "a.md"}, {"path": "/etc/passwd"}),
    (["bf:run:time_window:allow:0:24"], {}, None),
    (["bf:run:allow_attempts:allow:5"], {}, None),
]


def any_server() -> FastMCP[Any]:
    server: FastMCP[Any] = FastMCP("any")

    @server.tool
    def run(path: str = "docs/a", repo: str = "good") -> list[dict[str, Any]]:
        return [{"id": 1, "owner": {"email": "a@b", "name": "A"}}, {"id": 2, "owner": {"email": "c@d", "name": "B"}}]

    return server


@pytest.mark.parametrize(("rules", "good", "bad"), KINDS, ids=lambda value: str(value)[:40])
async def test_the_rule_kinds_of_the_examples_allow_and_refuse(
    rules: list[str], good: dict[str, Any], bad: dict[str, Any] | None
) -> None:
    server = any_server()
    guard(server, configured(["bf:run:tool_access:allow", *rules], default="deny"))
    async with Client(server) as client:
        assert not (await client.call_tool("run", good, raise_on_error=False)).is_error
        if bad is not None:
            assert (await client.call_tool("run", bad, raise_on_error=False)).is_error


async def test_attempts_run_out() -> None:
    server = any_server()
    guard(server, configured(["bf:run:tool_access:allow", "bf:run:allow_attempts:allow:2"], default="deny"))
    async with Client(server) as client:
        outcomes = [(await client.call_tool("run", raise_on_error=False)).is_error for _ in range(4)]
    assert outcomes == [False, False, True, True]


async def test_a_time_window_refuses_outside_its_hours() -> None:
    from datetime import UTC, datetime

    hour = datetime.now(UTC).hour
    outside = f"{(hour + 2) % 24}:{(hour + 3) % 24}"
    server = any_server()
    guard(server, configured(["bf:run:tool_access:allow", f"bf:run:time_window:allow:{outside}"], default="deny"))
    async with Client(server) as client:
        assert (await client.call_tool("run", raise_on_error=False)).is_error


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("af:run:field_access:deny:owner.email", {"id": 1, "owner": {"name": "A"}}),
        ("af:run:field_access:only:id", {"id": 1}),
        ("af:run:field_access:allow:id", {"id": 1, "owner": {"email": "a@b", "name": "A"}}),
    ],
)
@pytest.mark.parametrize("era", [{}, {"mode": "legacy"}], ids=["modern", "legacy"])
async def test_field_access_reaches_into_lists(rule: str, left: dict[str, Any], era: dict[str, Any]) -> None:
    server = any_server()
    guard(server, configured(["bf:run:tool_access:allow", rule], default="deny"))
    async with Client(server, **era) as client:
        result = await client.call_tool("run")
    assert result.structured_content is not None
    assert result.structured_content["result"][0] == left


# --- development commands -------------------------------------------------------------------------------------------


def test_bump_stands_in_for_bump2version() -> None:
    done = subprocess.run(
        [sys.executable, "dev.py", "bump", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "patch" in done.stdout


def test_the_dev_extra_exists_and_the_package_builds(tmp_path: Path) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pytest", "build"} <= {re.split(r"[<>=]", need)[0] for need in project["optional-dependencies"]["dev"]}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".whl"]


def test_asyncio_is_all_the_loop_that_is_needed() -> None:
    assert asyncio.run(MacaroonMiddleware(config=configured([]))._get_or_create_macaroon("alice")).id
