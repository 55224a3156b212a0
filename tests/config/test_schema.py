"""The JSON Schema of the file: committed, complete, and true to what the loader takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mcp_macaroon_middleware.cli.schema import schema_text
from mcp_macaroon_middleware.config.compile import compile_source
from mcp_macaroon_middleware.config.schema import file_schema
from mcp_macaroon_middleware.config.source import source_of
from mcp_macaroon_middleware.host.discovery import DiscoveryOptions, discover

BUILTINS = discover(DiscoveryOptions(allow=()))
SCHEMA = file_schema(BUILTINS.registry)
COMMITTED = Path(__file__).parents[2] / "docs" / "policies.schema.json"


def fits(data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(data))


def loads(data: Any) -> bool:
    return compile_source(source_of(data), discovery=BUILTINS).plan is not None


def test_the_committed_schema_is_up_to_date() -> None:
    assert COMMITTED.read_text() == schema_text(SCHEMA), (
        "docs/policies.schema.json is out of date, "
        "regenerate with  mcp-macaroon schema --builtin > docs/policies.schema.json"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(schema_text(SCHEMA)) == SCHEMA


@pytest.mark.parametrize(
    "data",
    [
        {"policies": []},
        {"config": None, "plugins": None, "policies": []},
        {"config": {"default": "deny", "audience": "mail"}, "policies": ["bf:a:tool_access:deny"]},
        {"config": {"secret_key": "${A}", "store": {"env": "A"}, "identity": {"local": None}}, "policies": []},
        {"config": {"roles": {"ops": {"claim": {"groups": ["sre", 1, True]}}}}, "policies": []},
        {"config": {"audit": [{"sink": "jsonl", "path": "a", "required": True}, {"sink": "log"}]}, "policies": []},
        {"policies": ["af:read_*:field_access:only:id:owner.login:time<20991231T000000Z"]},
        {"policies": [{"before": "a", "policy": "tool_access", "action": "allow", "for": {"subject": "x"}}]},
        {"policies": [{"after": {"tool": "a"}, "policy": "field_access", "action": "only", "params": ["id"]}]},
        {"policies": [{"before": {"resource": "db://u/{id}"}, "policy": "tool_access", "action": "deny"}]},
    ],
)
def test_what_loads_fits_the_schema(data: Any) -> None:
    assert fits(data)
    assert loads(data) or "store" in data["config"]  # which names a variable that is not set


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"policies": [], "polices": []},
        {"policies": ["bf:a"]},
        {"policies": ["bg:a:tool_access:deny"]},
        {"config": {"default": "dney"}, "policies": []},
        {"config": {"defualt": "deny"}, "policies": []},
        {"config": {"audit": []}, "policies": []},
        {"config": {"audit": [{"sink": "nope"}]}, "policies": []},
        {"config": {"audit": [{"sink": "log", "pth": "x"}]}, "policies": []},
        {"plugins": {"nobody": {}}, "policies": []},
        {"policies": [{"before": "a", "policy": "nope", "action": "deny"}]},
        {"policies": [{"before": "a", "after": "a", "policy": "tool_access", "action": "deny"}]},
        {"policies": [{"after": "a", "policy": "tool_access", "action": "deny"}]},
        {"policies": [{"before": "a", "policy": "tool_access", "action": "deny", "fro": {}}]},
    ],
)
def test_what_does_not_fit_the_schema_does_not_load(data: Any) -> None:
    assert not fits(data)
    assert not loads(data)


def test_what_a_plugin_adds_is_in_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "office.py"
    path.write_text(
        "from mcp_macaroon_middleware.plugin import Params, Settings, Verdict, enforcer\n"
        "class Zone(Settings):\n    zone: str = 'UTC'\n"
        "class Hours(Params):\n    start: int\n    what: object = None\n"
        "@enforcer('schema_hours', params=Hours, settings=Zone)\n"
        "def hours(check):\n    return Verdict.allow()\n"
    )
    path.chmod(0o600)
    found = discover(DiscoveryOptions(allow=(), files=(path,)))
    assert found.problems == ()
    schema = file_schema(found.registry)
    validator = jsonschema.Draft202012Validator(schema)
    rule = {"before": "a", "policy": "schema_hours", "action": "allow", "params": {"start": 9}}
    assert validator.is_valid({"plugins": {"office": {"zone": "x"}}, "policies": [rule]})
    assert not validator.is_valid({"plugins": {"office": {"zon": "x"}}, "policies": [rule]})
    assert not validator.is_valid({"policies": [{**rule, "params": {"strat": 9}}]})
    assert not validator.is_valid({"policies": [{**rule, "action": "deny"}]})
