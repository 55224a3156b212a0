"""The JSON Schema of the policy file, for editors: with everything that the given plugins add. It validates nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from ..model import SCOPES, Action, Kind, Phase
from ..plugin.contract import AuditSinkType, EnforcerType
from .sections import MEMORY, section_models
from .settings import AuditEntry, ConfigSettings, PluginOptions, RoleSettings

if TYPE_CHECKING:
    from ..host.registry import Registry

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_TEXTS: Final[Schema] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}


def file_schema(registry: Registry) -> Schema:
    """The schema of the whole file. Equal registries give equal schemas."""
    schema = _Schema()
    config = schema.of(ConfigSettings, "config")
    config["properties"]["audit"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [_sink(schema, registry.sinks[n].contribution) for n in sorted(registry.sinks)]},
        "description": "Where the audit record goes. Absent: log.",
    }
    config["properties"]["store"]["default"] = MEMORY
    return {
        "$schema": DIALECT,
        "title": "A policy file of mcp-macaroon-middleware",
        "type": "object",
        "additionalProperties": False,
        "required": ["policies"],
        "properties": {
            "config": _or_null(config),
            "plugins": _or_null(_plugins(schema, registry)),
            "policies": {"type": "array", "items": {"anyOf": [_string_rule(), _long_rule(schema, registry)]}},
        },
        "$defs": schema.definitions,
    }


class _Schema:
    """Collects the definitions of several models in one place, each under a prefix of its own."""

    def __init__(self) -> None:
        self.definitions: Schema = {}

    def of(self, model: type[BaseModel], prefix: str) -> Schema:
        schema = model.model_json_schema(
            ref_template=f"#/$defs/{prefix}.{{model}}", schema_generator=_Lenient, mode="validation"
        )
        for name, definition in schema.pop("$defs", {}).items():
            if name not in (AuditEntry.__name__,):
                self.definitions[f"{prefix}.{name}"] = definition
        return schema


class _Lenient(GenerateJsonSchema):
    """What JSON Schema cannot say about a plugin's field is left open."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> Schema:
        return {}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _plugins(schema: _Schema, registry: Registry) -> Schema:
    plugins = schema.of(PluginOptions, "plugins")
    for name, model in sorted(section_models(registry).items()):
        plugins["properties"][name] = schema.of(model, f"plugins.{name}")
    return plugins


def _sink(schema: _Schema, kind: AuditSinkType) -> Schema:
    options = schema.of(kind.options, f"audit.{kind.name}")
    properties = {
        "sink": {"const": kind.name, "description": kind.summary},
        "required": {"type": "boolean", "default": False, "description": "Refuse calls while it cannot record."},
        **options.get("properties", {}),
    }
    return {
        "type": "object",
        "properties": properties,
        "required": ["sink", *options.get("required", ())],
        "additionalProperties": False,
    }


# --- rules ----------------------------------------------------------------------------------------------------------


def _string_rule() -> Schema:
    actions = "|".join(action.value for action in Action)
    return {
        "type": "string",
        "pattern": f"^({'|'.join(phase.value for phase in Phase)}):.+:[A-Za-z_][A-Za-z0-9_.-]*:({actions})(:.+)?$",
        "description": "phase:target:policy:action[:param…][:time<YYYYMMDDTHHMMSSZ]",
        "examples": ["bf:delete_*:tool_access:deny"],
    }


def _long_rule(schema: _Schema, registry: Registry) -> Schema:
    target = {
        "anyOf": [
            _TEXT,
            *(
                {
                    "type": "object",
                    "properties": {kind.value: _TEXT},
                    "required": [kind.value],
                    "additionalProperties": False,
                }
                for kind in Kind
            ),
        ]
    }
    selector = schema.of(RoleSettings, "rule")
    selector["properties"] = {**selector["properties"], "role": _TEXTS}
    selector["description"] = "Principals: all keys given must match, a list means any of its values."
    schema.definitions["rule.Selector"] = selector
    names = sorted(registry.enforcers)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["policy", "action"],
        "oneOf": [{"required": ["before"]}, {"required": ["after"]}],
        "properties": {
            "before": target,
            "after": target,
            "policy": {"enum": names},
            "action": {"enum": [action.value for action in Action]},
            "params": {"description": "Positional values, or values by name."},
            "expires": {"type": "string", "pattern": "^(time<)?[0-9]{8}T[0-9]{6}Z$"},
            "for": {"$ref": "#/$defs/rule.Selector"},
            "except": {"$ref": "#/$defs/rule.Selector"},
            "approver": _TEXT,
            "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
            "expiry": {"type": "integer", "minimum": 1},
            "secret": _TEXTS,
            "four_eyes": {"type": "boolean", "description": "Another person than the caller must answer."},
            "dynamic": {"const": True},
        },
        "allOf": [_condition(schema, registry.enforcers[name].contribution) for name in names],
    }


def _condition(schema: _Schema, enforcer: EnforcerType) -> Schema:
    """What a rule of one policy may say."""
    sides = [side for side, phase in (("before", Phase.BEFORE), ("after", Phase.AFTER)) if phase in enforcer.phases]
    by_name = schema.of(enforcer.params, f"policy.{enforcer.name}")
    positional: list[Mapping[str, Any]] = [{"type": "array"}, {"type": ["string", "number", "boolean"]}]
    return {
        "if": {"properties": {"policy": {"const": enforcer.name}}, "required": ["policy"]},
        "then": {
            "description": enforcer.summary,
            "properties": {
                "action": {"enum": [action.value for action in Action if action in enforcer.actions]},
                "params": {"anyOf": [*positional, by_name]},
            },
            "anyOf": [{"required": [side]} for side in sides],
        },
    }
