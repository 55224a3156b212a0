"""The rule language: text to `Rule` and back, targets, selectors. It reads rules and never judges a request.

    phase:target:policy:action[:param…][:time<YYYYMMDDTHHMMSSZ]

`\\:` is a literal colon and `\\\\` a backslash; other escapes pass to the param's own syntax. Source: the project's
DESIGN, section 4, which carries on the policy strings of mcp-macaroon-middleware 2.0.0.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from .errors import RuleError
from .model import Action, Component, Kind, Phase, Place, Rule, Selector, Target

MAX_RULE: Final = 4096
TIME: Final = "time<"
EXPIRY_FORMAT: Final = "%Y%m%dT%H%M%SZ"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_KIND_PREFIX: Final = {f"{kind}=": kind for kind in Kind}
_LONG_KEYS: Final = (
    "before",
    "after",
    "policy",
    "action",
    "params",
    "expires",
    "for",
    "except",
    "approver",
    "scopes",
    "expiry",
    "secret",
    "dynamic",
)
SCOPES: Final = ("once", "period")


# --- string form ----------------------------------------------------------------------------------------------------


def parse_rule(text: str, *, place: Place | None = None, in_token: bool = False) -> Rule:
    """Reads one rule in string form. In a token a rule-level `time<` is the operator's alone, so it is an error.

    Raises `RuleError`, whose offset and length point at the wrong part of `text`.
    """
    if len(text) > MAX_RULE:
        raise RuleError(f"a rule has at most {MAX_RULE} characters, this one has {len(text)}", length=1)
    _no_control_characters(text)
    parts = _split(text)
    if len(parts) < 4:
        missing = ("phase", "target", "policy", "action")[len(parts)]
        raise RuleError(
            f"a rule reads phase:target:policy:action[:param…]; the {missing} is missing",
            offset=len(text),
            hint="for example  bf:delete_*:tool_access:deny",
        )
    for part in parts:
        if not part.value:
            raise RuleError("an empty part; write \\: for a colon that belongs to a name", offset=part.start)
    expires, rest = _expiry_of(parts, in_token=in_token)
    rule = Rule(
        phase=_phase(parts[0]),
        target=_located(parse_target, parts[1]),
        policy=_policy(parts[2]),
        action=_action(parts[3]),
        params=tuple(part.value for part in rest),
        raw_params=text[rest[0].start : rest[-1].end] if rest else None,
        expires=expires,
        place=place or Place(),
    )
    return replace(rule, text=format_rule(rule))


def format_rule(rule: Rule) -> str:
    """The canonical string form: `parse_rule` of it gives an equal rule.

    Raises `RuleError` for a rule that only the long form can say.
    """
    if any(_long_only(rule)):
        raise RuleError("this rule needs the long form")
    params = rule.params
    if isinstance(params, Mapping) or not all(isinstance(param, str) and param for param in params):
        raise RuleError("params by name need the long form")
    parts = [rule.phase.value, format_target(rule.target), escape(rule.policy), rule.action.value]
    parts += [escape(param) for param in params]
    if rule.expires is not None:
        parts.append(TIME + rule.expires.strftime(EXPIRY_FORMAT))
    return ":".join(parts)


def escape(value: str) -> str:
    """One part of a rule, escaped so that the parser gives `value` back."""
    out: list[str] = []
    for index, char in enumerate(value):
        following = value[index + 1 : index + 2]
        if char == ":" or (char == "\\" and following in ("", "\\", ":")):
            out.append("\\")
        out.append(char)
    text = "".join(out)
    return "\\" + text if value.startswith((TIME, "\\" + TIME)) else text


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a rule between colons: its unescaped value and where it stands in the text."""

    value: str
    start: int
    end: int
    is_time: bool = False


def _split(text: str) -> list[_Part]:
    parts: list[_Part] = []
    value: list[str] = []
    start = index = 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            taken, width = _escape_at(text, index, at_start=index == start)
            value.append(taken)
            index += width
            continue
        if char == ":":
            parts.append(_part(text, value, start, index))
            value, start = [], index + 1
        else:
            value.append(char)
        index += 1
    parts.append(_part(text, value, start, index))
    return parts


def _part(text: str, value: list[str], start: int, end: int) -> _Part:
    return _Part("".join(value), start, end, is_time=text.startswith(TIME, start))


def _escape_at(text: str, index: int, *, at_start: bool) -> tuple[str, int]:
    """What the backslash at `index` stands for, and how many characters it spans."""
    following = text[index + 1 : index + 2]
    if following in (":", "\\"):
        return following, 2
    if at_start and text.startswith(TIME, index + 1):
        return "t", 2
    if not following:
        raise RuleError("a lone backslash at the end; write \\\\ for a backslash", offset=index)
    return "\\" + following, 2


def _expiry_of(parts: list[_Part], *, in_token: bool) -> tuple[datetime | None, list[_Part]]:
    for part in parts[:-1]:
        if part.is_time:
            raise RuleError("time<… must be the last part; write \\time< for a param", offset=part.start, length=5)
    last = parts[-1]
    if len(parts) < 5 or not last.is_time:
        return None, parts[4:]
    if in_token:
        raise RuleError("a rule in a token has no time<…; add time<… to the token itself", offset=last.start, length=5)
    return _located(lambda value: parse_expiry(value[len(TIME) :]), last), parts[4:-1]


def parse_expiry(text: str) -> datetime:
    """The UTC instant that `YYYYMMDDTHHMMSSZ` names. Raises `RuleError` for anything else."""
    try:
        if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text):
            return datetime.strptime(text, EXPIRY_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        pass  # a thirteenth month: said below
    raise RuleError(
        f"{text!r} is not an instant in UTC", length=max(1, len(text)), hint="write it as time<20301231T235959Z"
    )


def format_expiry(at: datetime) -> str:
    """The `time<…` text of an aware datetime, whole seconds in UTC."""
    return TIME + at.astimezone(UTC).strftime(EXPIRY_FORMAT)


def _phase(part: _Part) -> Phase:
    if part.value in (Phase.BEFORE, Phase.AFTER):
        return Phase(part.value)
    raise RuleError(
        f"{part.value!r} is not a phase",
        offset=part.start,
        length=part.end - part.start,
        hint="write bf (before the call) or af (after it)" + _suggest(part.value, ["bf", "af"]),
    )


def _action(part: _Part) -> Action:
    if part.value in set(Action):
        return Action(part.value)
    actions = [action.value for action in Action]
    raise RuleError(
        f"{part.value!r} is not an action",
        offset=part.start,
        length=part.end - part.start,
        hint=f"one of {', '.join(actions)}" + _suggest(part.value, actions),
    )


def _policy(part: _Part) -> str:
    if _NAME.match(part.value):
        return part.value
    raise RuleError(
        f"{part.value!r} cannot be a policy name (letters, digits, . _ -)",
        offset=part.start,
        length=part.end - part.start,
    )


def _located(read: Any, part: _Part) -> Any:
    """Runs a reader on a part; its error then points into the whole rule."""
    try:
        return read(part.value)
    except RuleError as error:
        raise RuleError(
            str(error), offset=part.start, length=part.end - part.start, hint=error.hint, code=error.code
        ) from None


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _no_control_characters(text: str) -> None:
    for index, char in enumerate(text):
        if ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029":
            raise RuleError("a control character; rules are one line of printable text", offset=index)


# --- targets --------------------------------------------------------------------------------------------------------


def parse_target(text: str) -> Target:
    """Reads a target: a tool name or glob, `tool=…`, `prompt=…`, `resource=…`, `method=…`, or `*` for everything."""
    if text == "*":
        return Target(kind=None, pattern="*")
    for prefix, kind in _KIND_PREFIX.items():
        if text.startswith(prefix):
            if len(text) == len(prefix):
                raise RuleError(f"{prefix} needs a name", length=len(text))
            return Target(kind=kind, pattern=_pattern(kind, text[len(prefix) :]))
    return Target(kind=Kind.TOOL, pattern=text)


def _pattern(kind: Kind, text: str) -> str:
    return normal_uri(text) if kind is Kind.RESOURCE else text


def format_target(target: Target) -> str:
    """The target as a rule writes it, escaped."""
    if target.kind is None:
        return "*"
    bare = target.kind is Kind.TOOL and target.pattern != "*" and not target.pattern.startswith(tuple(_KIND_PREFIX))
    return escape(target.pattern if bare else f"{target.kind}={target.pattern}")


def normal_uri(uri: str) -> str:
    """A resource's URI in one spelling: scheme and authority in lower case, needless escapes decoded, no fragment.

    Dot segments are left: whoever resolves a request refuses them. Source: RFC 3986, section 6.2.2.
    """
    head, separator, tail = uri.partition("://")
    if not separator:
        return uri
    tail = tail.partition("#")[0]
    authority, slash, path = tail.partition("/")
    if "{" not in authority and "*" not in authority:
        authority = authority.lower()
    return f"{head.lower()}://{_decode_unreserved(authority + slash + path)}"


def _decode_unreserved(text: str) -> str:
    def decode(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        return char if char.isascii() and (char.isalnum() or char in "-._~") else match[0].upper()

    return re.sub("%([0-9A-Fa-f]{2})", decode, text)


def glob_matches(pattern: str, text: str) -> bool:
    """Whether `text` fits `pattern`, where `*` stands for any run of characters and nothing else is special.

    Never backtracks: the work is at most the pattern's stars times the text's length.
    """
    if "*" not in pattern:
        return pattern == text
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def target_matches(target: Target, component: Component, *, granting: bool = False) -> bool:
    """Whether a rule with this target speaks of the component.

    A restricting rule matches any name in the component's chain, a granting one the public name (or URI) alone.
    """
    if target.kind is None:
        return True
    if target.kind is not component.kind:
        return False
    return any(glob_matches(target.pattern, name) for name in names_of(component, granting=granting))


def names_of(component: Component, *, granting: bool) -> tuple[str, ...]:
    """The names that a target is compared with."""
    exposed = (component.name,) if component.uri is None else (component.name, component.uri)
    return exposed if granting else exposed + component.names


# --- long form ------------------------------------------------------------------------------------------------------


def rule_from_mapping(mapping: Mapping[str, Any], *, place: Place | None = None) -> Rule:
    """Reads one rule in the long form. Raises `RuleError` with what is wrong and the right word."""
    for key in mapping:
        if key not in _LONG_KEYS:
            raise RuleError(
                f"unknown key {key!r} in a rule",
                hint=f"keys are {', '.join(_LONG_KEYS)}" + _suggest(str(key), _LONG_KEYS),
                code="unknown_key",
            )
    phase, target = _long_target(mapping)
    rule = Rule(
        phase=phase,
        target=target,
        policy=_policy(_Part(_text(mapping, "policy"), 0, 0)),
        action=_action(_Part(_text(mapping, "action"), 0, 0)),
        params=_long_params(mapping.get("params", ())),
        expires=parse_expiry(_text(mapping, "expires").removeprefix(TIME)) if "expires" in mapping else None,
        for_=parse_selector(mapping["for"], "for") if "for" in mapping else None,
        except_=parse_selector(mapping["except"], "except") if "except" in mapping else None,
        approver=_text(mapping, "approver") if "approver" in mapping else None,
        scopes=_scopes(mapping.get("scopes", ())),
        expiry=_seconds(mapping.get("expiry")),
        secret=_texts(mapping.get("secret", ()), "secret"),
        dynamic=_flag(mapping.get("dynamic", False)),
        place=place or Place(),
    )
    return replace(rule, text=_one_line(rule))


def rule_to_mapping(rule: Rule) -> dict[str, Any]:
    """The long form: `rule_from_mapping` of it gives an equal rule."""
    side = "before" if rule.phase is Phase.BEFORE else "after"
    kind = rule.target.kind
    bare = kind is None or (kind is Kind.TOOL and parse_target(rule.target.pattern) == rule.target)
    mapping: dict[str, Any] = {
        side: rule.target.pattern if bare else {str(kind): rule.target.pattern},
        "policy": rule.policy,
        "action": rule.action.value,
    }
    if rule.params:
        mapping["params"] = dict(rule.params) if isinstance(rule.params, Mapping) else list(rule.params)
    if rule.expires is not None:
        mapping["expires"] = rule.expires.strftime(EXPIRY_FORMAT)
    for key, selector in (("for", rule.for_), ("except", rule.except_)):
        if selector is not None:
            mapping[key] = _selector_mapping(selector)
    if rule.approver is not None:
        mapping["approver"] = rule.approver
    for key, texts in (("scopes", rule.scopes), ("secret", rule.secret)):
        if texts:
            mapping[key] = list(texts)
    if rule.expiry is not None:
        mapping["expiry"] = rule.expiry
    if rule.dynamic:
        mapping["dynamic"] = True
    return mapping


def parse_selector(value: Any, key: str = "for") -> Selector:
    """Reads `for:`, `except:` or a role: `subject`, `role`, `client` (text or list), `claim: {name: value(s)}`."""
    if not isinstance(value, Mapping) or not value:
        raise RuleError(f"{key} names principals: {{subject: …, role: …, client: …, claim: {{name: value}}}}")
    known = ("subject", "role", "claim", "client")
    for name in value:
        if name not in known:
            raise RuleError(f"unknown key {name!r} under {key}", hint=_suggest(str(name), known).lstrip("; "))
    claims = value.get("claim", {})
    if not isinstance(claims, Mapping) or not all(isinstance(name, str) for name in claims):
        raise RuleError(f"claim under {key} is a mapping: claim: {{department: finance}}")
    if "claim" in value and not claims:
        raise RuleError(f"claim under {key} names at least one claim")

    def some(name: str) -> tuple[str, ...]:
        return _some(value[name], name) if name in value else ()

    return Selector(
        subject=some("subject"),
        role=some("role"),
        client=some("client"),
        claim=tuple((name, _some(wanted, name, scalars=True)) for name, wanted in claims.items()),
    )


def claim_text(value: Any) -> str | None:
    """A claim's scalar as selectors compare it; None for what is not a scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return None


def _long_target(mapping: Mapping[str, Any]) -> tuple[Phase, Target]:
    if ("before" in mapping) == ("after" in mapping):
        raise RuleError("a rule has either before: or after:, with its target", hint="as in {before: delete_*, …}")
    key = "before" if "before" in mapping else "after"
    phase = Phase.BEFORE if key == "before" else Phase.AFTER
    value = mapping[key]
    if isinstance(value, str) and value:
        return phase, parse_target(value)
    if isinstance(value, Mapping) and len(value) == 1:
        kind, pattern = next(iter(value.items()))
        if kind in set(Kind) and isinstance(pattern, str) and pattern:
            return phase, Target(kind=Kind(kind), pattern=_pattern(Kind(kind), pattern))
    raise RuleError(f"{key}: takes a name or glob, or {{tool: …}}, {{prompt: …}}, {{resource: …}} or {{method: …}}")


def _long_params(value: Any) -> tuple[Any, ...] | Mapping[str, Any]:
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise RuleError("params by name are {name: value}")
        return dict(value)
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


def _scopes(value: Any) -> tuple[str, ...]:
    scopes = _texts(value, "scopes")
    for scope in scopes:
        if scope not in SCOPES:
            raise RuleError(f"unknown scope {scope!r}", hint=f"one of {', '.join(SCOPES)}" + _suggest(scope, SCOPES))
    return scopes


def _seconds(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise RuleError("expiry is a whole number of seconds above 0")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RuleError("dynamic is true or false")
    return value


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise RuleError(f"a rule needs {key}: a text")
    _no_control_characters(value)
    return value


def _texts(value: Any, key: str, *, scalars: bool = False) -> tuple[str, ...]:
    items: Sequence[Any] = value if isinstance(value, list | tuple) else (value,)
    texts = tuple(item if isinstance(item, str) else claim_text(item) if scalars else None for item in items)
    if any(not text for text in texts):
        raise RuleError(f"{key} is a text or a list of texts")
    return tuple(text for text in texts if text)


def _some(value: Any, key: str, *, scalars: bool = False) -> tuple[str, ...]:
    """At least one text: an empty list would select everybody."""
    texts = _texts(value, key, scalars=scalars)
    if not texts:
        raise RuleError(f"{key} is empty; name at least one")
    return texts


def _long_only(rule: Rule) -> Iterable[bool]:
    yield from (rule.for_ is not None, rule.except_ is not None, rule.approver is not None)
    yield from (bool(rule.scopes), rule.expiry is not None, bool(rule.secret), rule.dynamic)


def _one_line(rule: Rule) -> str:
    try:
        return format_rule(rule)
    except RuleError:
        return json.dumps(rule_to_mapping(rule), ensure_ascii=True, default=str)


def _selector_mapping(selector: Selector) -> dict[str, Any]:
    mapping: dict[str, Any] = {
        key: list(texts)
        for key, texts in (("subject", selector.subject), ("role", selector.role), ("client", selector.client))
        if texts
    }
    if selector.claim:
        mapping["claim"] = {name: list(wanted) for name, wanted in selector.claim}
    return mapping
