"""The models of `config:` and `plugins:`, and the faults of a file's settings at their places. It opens nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
)

from ..core.binding import ApprovalTerms
from ..errors import Diagnostic, RuleError
from ..model import Action, Selector
from ..rules import parse_selector
from ..tokens.caveats import writable
from .places import DataPath, Source
from .references import Reference, resolve_references

TEN_YEARS: Final = 315_360_000
TOP_KEYS: Final = ("config", "plugins", "policies")
PLUGIN_KEYS: Final = ("allow", "disable", "require", "files")
UNRESOLVED: Final = frozenset({"secret_key", "store", "third_party", "discharges"})

Name = Annotated[str, Field(min_length=1, max_length=200)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[StrictInt, Field(ge=1, le=TEN_YEARS)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


Texts = Annotated[
    tuple[Name, ...],
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]
ClaimValues = Annotated[
    tuple[str | StrictInt | StrictBool | StrictFloat, ...],
    BeforeValidator(_listed, json_schema_input_type=str | int | bool | float | list[str | int | bool | float]),
]


def _caveat(text: str) -> str:
    try:
        return writable(text)
    except RuleError as error:
        raise ValueError(str(error)) from None


CaveatTexts = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_caveat)], ...],
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    Field(max_length=64),
]

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """The base of our own sections: no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class IdentitySettings(Section):
    """Who a caller is. A claim named here that a token lacks refuses the request."""

    claim: Name | None = Field(
        default=None, description="The claim that names the subject; default: the token's subject, else sub."
    )
    tenant: Name | None = Field(default=None, description="The claim that names the tenant.")
    issuer: Name | None = Field(
        default=None, description="The issuer of callers whose provider, the only one, names none in its tokens."
    )
    local: Name | None = Field(
        default="local", description="The subject of stdio and in-memory callers; null refuses them."
    )
    anonymous: Name | None = Field(
        default=None, description="The subject of HTTP callers without a credential; absent: refused."
    )
    direct: Name | None = Field(
        default=None,
        description="The subject of callers of server.call_tool() with no request around them; absent: refused.",
    )
    token_namespace: Name | None = Field(
        default=None,
        description="The issuer that tokens which name none speak for, so that a person is one principal either way.",
    )
    same_as: dict[Name, Name] = Field(
        default={},
        description="Approvers' issuers, each with the callers' issuer that gives people the same subjects.",
    )

    def local_subject(self, *, tokens: bool) -> str | None:
        """The subject of stdio and in-memory callers without a token: where tokens count it must be named."""
        return self.local if not tokens or "local" in self.model_fields_set else None


class ClaimPath(Section):
    """A claim by the names that lead to it, and what it is to hold."""

    model_config = ConfigDict(validate_by_name=True)

    path: Name | Annotated[tuple[Name, ...], Field(min_length=1)]
    is_: ClaimValues = Field(alias="is")


class RoleSettings(Section):
    """A role: which principals bear it. All keys given must match, a list means any of its values."""

    subject: Texts = Field(default=(), description="Users, and this process's own; never machines.")
    client: Texts = Field(default=(), description="Machines and client programs.")
    issuer: Texts = Field(default=(), description="Who vouches for the caller; any: whoever.")
    tenant: Texts = ()
    scope: Texts = Field(default=(), description="Words of the claims scope and scp.")
    claim: dict[str, ClaimValues] | tuple[ClaimPath, ...] = Field(
        default={}, description="Claims by name or dotted path, or as a list of {path, is}."
    )


class ApprovalSettings(Section):
    """How people are asked."""

    default: Name = Field(default="mcp", description="The approver of rules that name none.")
    fallback: Texts = Field(
        default=(), description="Approvers for when the first cannot be asked; none that proves less is taken."
    )
    scopes: tuple[Literal["once", "period"], ...] = Field(
        default=("once", "period"), min_length=1, description="What may be offered: this call, or a period."
    )
    max_pending: Annotated[StrictInt, Field(ge=1, le=10_000)] = Field(
        default=20, description="Questions to one principal within the time that each stays open."
    )
    timeout: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=120, description="Seconds that a question stays open."
    )
    end_with_token: StrictBool = Field(
        default=False, description="No approval outlives the credential of the request that it was given in."
    )

    def terms(self) -> ApprovalTerms:
        """The same, as the engine takes it."""
        return ApprovalTerms(**self.model_dump())


class TokenSettings(Section):
    """Tokens as credentials. That the section is there, empty or not, is what makes them count."""

    variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default="MACAROON_TOKEN",
        description="The environment variable with this process's token: nobody may have more than that.",
    )
    step_up: StrictBool = Field(
        default=False, description="Answer HTTP 403 insufficient_scope where it is the token that lacks authority."
    )
    delegate: StrictBool = Field(
        default=False, description="Offer the tool macaroon_delegate, which narrows the caller's own token."
    )


class ThirdPartySettings(Section):
    """A service whose discharges count, and the secret shared with it."""

    location: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$")] = Field(
        description="The service's name or address, as third-party caveats bear it."
    )
    key: Reference = Field(description="The secret shared with the service; 32 bytes or more.")
    condition: str = Field(default="", max_length=500, description="What the service is asked by default.")


class DischargeSettings(Section):
    """What makes this program such a service itself: where it stands, the secret it shares, what it answers."""

    location: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$")] = Field(
        description="The service's own name or address, as third-party caveats bear it."
    )
    key: Reference = Field(description="The secret shared with the servers that ask for discharges; 32 bytes or more.")
    expires: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=300, description="Seconds that a discharge counts."
    )
    caveats: dict[str, CaveatTexts] = Field(
        default={}, description="Rules that go into a discharge, by its condition; those under * go into every one."
    )
    same_subject: StrictBool = Field(
        default=True, description="Only the subject of a token may fetch the discharges that it needs."
    )


class AuditEntry(BaseModel):
    """One sink of the audit record; the other keys are the sink's own options."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    sink: Name
    required: StrictBool = Field(default=False, description="Refuse calls while this sink cannot record.")


class ConfigSettings(Section):
    """The `config:` section. Secrets stay references here; nothing in its repr is one."""

    secret_key: Reference | None = Field(default=None, description="The signing key; default: ${MACAROON_SECRET_KEY}.")
    keys: FilePath | None = Field(default=None, description="A directory of keys, made by `mcp-macaroon keys new`.")
    audience: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._:/@-]{0,199})?$",
        description="Names this server in tokens, grants and store keys.",
    )
    default: Literal["allow", "deny"] | None = Field(
        default=None, description="What happens to a component that no rule grants. Absent: allow, with a warning."
    )
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")], ...] = Field(
        default=(), description="Further protocol methods that rules may allow."
    )
    mode: Literal["enforce", "shadow"] = Field(
        default="enforce", description="shadow: rules are recorded, not enforced."
    )
    elicit_expiry: Seconds = Field(default=900, description="Seconds that an approval for a period lasts.")
    deny_expiry: Seconds = Field(default=60, description="Seconds that a decline is remembered.")
    hide_denied: StrictBool = Field(default=True, description="Answer for a denied component as for an unknown one.")
    identity: IdentitySettings = IdentitySettings()
    roles: dict[Name, RoleSettings] = {}
    store: Reference = Field(
        default=Reference("text", "memory"), description="memory, or the address of another store."
    )
    approvals: ApprovalSettings = ApprovalSettings()
    tokens: TokenSettings | None = Field(default=None, description="Tokens as credentials; absent: none count.")
    third_party: tuple[ThirdPartySettings, ...] = Field(
        default=(), max_length=64, description="Services whose discharges count."
    )
    discharges: DischargeSettings | None = Field(
        default=None, description="What the discharge service answers by; absent: this program is none."
    )
    audit: tuple[AuditEntry, ...] = Field(default=(AuditEntry(sink="log"),), min_length=1)
    clear_arguments: Texts = Field(
        default=(), description="Arguments that the audit record shows instead of their digests."
    )

    @property
    def default_action(self) -> Action:
        """What `default` means; absent it is ALLOW, as the original's documents expect."""
        return Action.DENY if self.default == "deny" else Action.ALLOW

    def selectors(self) -> dict[str, Selector]:
        """The roles as selectors. Raises `RuleError` for a role that names nobody."""
        return {name: _selector(role) for name, role in self.roles.items()}


class PluginOptions(Section):
    """The keys of `plugins:` that are not a plugin's own section."""

    allow: Texts | None = Field(
        default=None, description="The plugins that may be loaded; absent: every installed one."
    )
    disable: Texts = Field(default=(), description="Plugins that are not loaded.")
    require: Texts = Field(default=(), description='Plugins that must be there: "mcp-macaroon-schedule>=3.0".')
    files: Texts = Field(default=(), description="Python files that are plugins, relative to this file.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """The settings of a file; `sections` names the plugins' own sections, not validated yet."""

    config: ConfigSettings
    plugins: PluginOptions
    sections: tuple[str, ...] = ()


def read_settings(source: Source) -> tuple[FileSettings, list[Diagnostic]]:
    """Validates `config:` and `plugins:`. What is wrong is told at its place; defaults stand in for it."""
    problems = list(_shape(source))
    config_data, found = resolve_references(source, ("config",), keep=UNRESOLVED)
    problems += found
    config = _validated(ConfigSettings, config_data, source, ("config",), problems)
    plugin_data = source.get(("plugins",))
    own, sections = _divided(plugin_data if isinstance(plugin_data, Mapping) else {})
    problems += [
        _unknown_key(source, ("plugins", name), PLUGIN_KEYS) for name in sections if not _is_section(source, name)
    ]
    sections = tuple(name for name in sections if _is_section(source, name))
    plugins = _validated(PluginOptions, own, source, ("plugins",), problems)
    problems += _advice(source, config)
    return FileSettings(config=config, plugins=plugins, sections=sections), problems


def validation_diagnostics(
    error: ValidationError, model: type[BaseModel], source: Source, path: DataPath
) -> list[Diagnostic]:
    """pydantic's faults as diagnostics at the values' places, one a place; they never show a value."""
    found: dict[tuple[DataPath, bool], Diagnostic] = {}
    for fault in error.errors(include_url=False, include_input=False):
        where = _existing(source, path, fault["loc"])
        unknown = fault["type"] == "extra_forbidden"
        if (where, unknown) not in found:
            found[where, unknown] = (
                _unknown_key(source, where, known_names(model, fault["loc"][:-1]))
                if unknown
                else _bad_value(source, where, fault)
            )
    inner = {where[:end] for where, _ in found for end in range(len(where))}
    return [diagnostic for (where, unknown), diagnostic in found.items() if unknown or where not in inner]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def known_names(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that a model takes at a place inside it."""
    current: Any = model
    for part in loc:
        if _is_model(current) and part in current.model_fields:
            current = current.model_fields[part].annotation
        else:
            current = next((arg for arg in get_args(current) if _is_model(arg)), current)
    if not _is_model(current):
        current = next((arg for arg in get_args(current) if _is_model(arg)), None)
    return tuple(current.model_fields) if current is not None else ()


# --- parts ----------------------------------------------------------------------------------------------------------


def _shape(source: Source) -> Iterable[Diagnostic]:
    data = source.data
    if not isinstance(data, Mapping):
        yield source.diagnostic("not_a_mapping", f"a policy file is a mapping with the keys {', '.join(TOP_KEYS)}")
        return
    for name in data:
        if name not in TOP_KEYS:
            yield _unknown_key(source, (name,), TOP_KEYS)
    for name in ("config", "plugins"):
        if data.get(name) is not None and not isinstance(data[name], Mapping):
            yield source.diagnostic("not_a_mapping", f"{name} is a mapping", (name,))
    if not isinstance(data.get("policies"), list):
        yield source.diagnostic(
            "policies_missing",
            "policies is a list of rules" if data.get("policies") is not None else "there are no policies",
            ("policies",),
            key="policies" in data,
            hint="write  policies: []  for none",
        )


def _divided(data: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    own = {name: value for name, value in data.items() if name in PLUGIN_KEYS}
    return own, tuple(name for name in data if name not in PLUGIN_KEYS)


def _is_section(source: Source, name: str) -> bool:
    """A plugin's own section is a mapping, or empty; anything else is a key of ours, misspelt."""
    value = source.get(("plugins", name))
    return value is None or isinstance(value, Mapping)


def _validated(model: type[Model], data: Any, source: Source, path: DataPath, problems: list[Diagnostic]) -> Model:
    """The section as its model; keys with faults are told and left out, so that the rest can be looked at."""
    given = dict(data) if isinstance(data, Mapping) else {}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems += validation_diagnostics(error, model, source, path)
        bad = {fault["loc"][0] for fault in error.errors(include_url=False, include_input=False) if fault["loc"]}
    return model.model_validate({name: value for name, value in given.items() if name not in bad})


def _existing(source: Source, path: DataPath, loc: Sequence[str | int]) -> DataPath:
    """The place that pydantic means: its own markers between keys are left out."""
    for part in loc:
        inside = source.get(path)
        if (isinstance(inside, Mapping) and part in inside) or (isinstance(inside, list) and isinstance(part, int)):
            path = (*path, part)
    return path


def _unknown_key(source: Source, path: DataPath, known: Sequence[str]) -> Diagnostic:
    name = str(path[-1])
    hint = did_you_mean(name, known) or f"known keys are {', '.join(known)}"
    return source.diagnostic("unknown_key", f"unknown key {name!r}", path, key=True, hint=hint)


def _bad_value(source: Source, path: DataPath, fault: Mapping[str, Any]) -> Diagnostic:
    value = source.get(path)
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if fault["type"] == "missing":
        return source.diagnostic("missing_key", f"{name}: the key {fault['loc'][-1]!r} is missing", path)
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    hint = ""
    if fault["type"] == "literal_error" and isinstance(value, str):
        hint = did_you_mean(value, str(fault["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", "))
    elif fault["type"] == "string_type" and isinstance(value, int | float):
        hint = "write it in quotes to make it a text"
    return source.diagnostic("bad_value", f"{name}: {message[:1].lower()}{message[1:]}", path, hint=hint)


def _advice(source: Source, config: ConfigSettings) -> Iterable[Diagnostic]:
    def warn(code: str, message: str, path: DataPath, *, key: bool = False, hint: str = "") -> Diagnostic:
        return source.diagnostic(code, message, path, key=key, hint=hint, severity="warning")

    if source.get(("config", "default")) is None:
        yield warn(
            "default_missing",
            "without default, a component that no rule names is ALLOWED",
            ("config",),
            key=True,
            hint="write  default: deny  under config, and allow what is needed",
        )
    if config.mode == "shadow":
        yield warn("shadow", "mode: shadow records what rules would refuse and refuses nothing", ("config", "mode"))
    given = source.get(("config",))
    if isinstance(given, Mapping) and "tokens" in given and given["tokens"] is None:
        hint = "write  tokens: {}  to accept tokens, or leave it out"
        yield source.diagnostic("bad_value", "tokens: is empty", ("config", "tokens"), key=True, hint=hint)
    if config.tokens is not None and not config.audience:
        yield source.diagnostic(
            "audience_missing",
            "tokens are made for one server, so config.audience must name this one",
            ("config", "tokens"),
            key=True,
            hint="write  audience: NAME  under config",
        )
    locations = [party.location for party in config.third_party]
    for index, location in enumerate(locations):
        if location in locations[:index]:
            where = ("config", "third_party", index, "location")
            yield source.diagnostic("third_party_twice", f"{location!r} is there already", where)
    for name in config.roles:
        try:
            _selector(config.roles[name])
        except RuleError as error:
            yield source.diagnostic("role_invalid", f"the role {name!r} {error}", ("config", "roles", name))


def _selector(role: RoleSettings) -> Selector:
    named = {key: value for key, value in role.model_dump(by_alias=True).items() if value}
    if not named or not all(role.claim.values() if isinstance(role.claim, dict) else role.claim):
        raise RuleError("names nobody: give it claim, subject, client, issuer, tenant or scope")
    return parse_selector(named, "role")


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
