"""A call's arguments in the values that its function will get, without running it: what rules must judge.

A local function's arguments are validated with its own signature, as FastMCP does it. A foreign component gets what the
caller sent, to the byte; its JSON schema says what else rules are shown (see `foreign`).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, get_type_hints

from fastmcp import FastMCP
from fastmcp.exceptions import FastMCPError
from fastmcp.prompts.base import Prompt
from fastmcp.prompts.function_prompt import FunctionPrompt
from fastmcp.resources.template import FunctionResourceTemplate
from fastmcp.server.dependencies import without_injected_parameters
from fastmcp.tools.base import Tool
from fastmcp.tools.function_tool import FunctionTool, _validate_input
from fastmcp.tools.tool_transform import TransformedTool
from fastmcp.utilities.types import NotSet, get_cached_typeadapter
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ...errors import ArgumentsInvalid
from ...model import ArgumentFacts
from .compat import AnyComponent, is_pure
from .foreign import facts_of, published_of

PLAIN: Final = (str, int, float, bool, type(None))


def is_local(component: AnyComponent) -> bool:
    """Whether the component is a function of this process, with a signature to validate with."""
    return isinstance(component, FunctionTool | FunctionPrompt | FunctionResourceTemplate)


def judged(leaf: AnyComponent, arguments: Mapping[str, Any], server: FastMCP[Any]) -> ArgumentFacts:
    """The arguments as rules must see them, and what is known of them. Raises `ArgumentsInvalid` with what is wrong."""
    if isinstance(leaf, Tool) and not isinstance(leaf, FunctionTool):
        return facts_of(leaf.parameters, arguments)
    values = coerced(leaf, arguments, server)
    published = published_of(leaf.parameters) if isinstance(leaf, Tool) else None
    return ArgumentFacts(given=values, readings=(values,), published=published, foreign=not is_local(leaf))


def coerced(leaf: AnyComponent, arguments: Mapping[str, Any], server: FastMCP[Any]) -> dict[str, Any]:
    """The arguments as the leaf's body will see them, as plain data. Raises `ArgumentsInvalid` with what is wrong."""
    if isinstance(leaf, FunctionTool):
        strict = True if server.strict_input_validation else None
        return plain_arguments(_validated(leaf.fn, dict(arguments), strict=strict))
    if isinstance(leaf, Prompt):
        return _prompt_arguments(leaf, arguments)
    if isinstance(leaf, FunctionResourceTemplate):
        return plain_arguments(_validated(leaf.fn, _query_values(leaf, arguments), strict=None))
    return dict(arguments)


# --- through transforms ---------------------------------------------------------------------------------------------


def through(transforms: tuple[TransformedTool, ...], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments in the leaf's names, or None where a transform computes them. Raises `ArgumentsInvalid`."""
    current: dict[str, Any] | None = dict(arguments)
    for transform in transforms:
        if current is None or not is_pure(transform):
            return None
        current = _renamed(transform, current)
    return current


def _renamed(tool: TransformedTool, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """What a pure transform hands to its parent; None where it makes a value anew for every call."""
    properties = tool.parameters.get("properties", {})
    unknown = sorted(set(arguments) - set(properties))
    if unknown:
        raise ArgumentsInvalid(f"unexpected argument(s): {', '.join(unknown)}")
    names, fixed, made = _changes(tool)
    filled = {name: schema["default"] for name, schema in properties.items() if "default" in schema} | arguments
    missing = [name for name in tool.parameters.get("required", ()) if name not in filled]
    if missing:
        raise ArgumentsInvalid(f"missing argument(s): {', '.join(missing)}")
    if made - set(arguments):
        return None
    return {str(names.get(name, name)): value for name, value in filled.items()} | fixed


def _changes(tool: TransformedTool) -> tuple[dict[str, str], dict[str, Any], set[str]]:
    """New names to old ones, hidden constants, and the names whose value a factory makes."""
    names: dict[str, str] = {}
    fixed: dict[str, Any] = {}
    made: set[str] = set()
    for old, change in (tool.transform_args or {}).items():
        new: str = change.name if isinstance(change.name, str) else old
        if not change.hide:
            names[new] = old
        if change.default_factory is not NotSet:
            made.add("" if change.hide else new)
        elif change.hide and change.default is not NotSet:
            fixed[old] = change.default
    return names, fixed, made


# --- local functions ------------------------------------------------------------------------------------------------


def _validated(function: Callable[..., Any], arguments: dict[str, Any], *, strict: bool | None) -> dict[str, Any]:
    try:
        return dict(_validate_input(_adapter(function), arguments, strict=strict))
    except ValidationError as error:
        raise ArgumentsInvalid(str(error)) from None


@lru_cache(maxsize=2048)
def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """Validates as the function's own adapter does, and returns the bound arguments, defaults filled, unrun."""
    exposed = without_injected_parameters(getattr(function, "raw_function", function))
    signature = inspect.signature(exposed)
    try:
        hints = get_type_hints(exposed, include_extras=True)
    except Exception:  # as FastMCP: partials and odd annotations have only the signature's own
        hints = {}

    def capture(*args: Any, **kwargs: Any) -> dict[str, Any]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return _flat(bound)

    capture.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)  # type: ignore[attr-defined]
    capture.__annotations__ = {
        name: hints.get(name, parameter.annotation)
        for name, parameter in signature.parameters.items()
        if name in hints or parameter.annotation is not inspect.Parameter.empty
    }
    capture.__module__ = getattr(function, "__module__", __name__)
    capture.__name__ = getattr(function, "__name__", "capture")
    return get_cached_typeadapter(capture)


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        else:
            flat[name] = value
    return flat


def _prompt_arguments(prompt: Prompt, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's texts, converted as FastMCP converts them for a local function."""
    required = {argument.name for argument in prompt.arguments or () if argument.required}
    missing = sorted(required - set(arguments))
    if missing:
        raise ArgumentsInvalid(f"missing argument(s): {', '.join(missing)}")
    if not isinstance(prompt, FunctionPrompt):
        return dict(arguments)
    try:
        converted = prompt._convert_string_arguments(dict(arguments))
    except FastMCPError as error:
        raise ArgumentsInvalid(str(error)) from None
    known = inspect.signature(prompt.fn).parameters
    return plain_arguments(
        _validated(prompt.fn, {name: value for name, value in converted.items() if name in known}, strict=None)
    )


def _query_values(template: FunctionResourceTemplate, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Texts of a URI for parameters that are numbers or flags, read as FastMCP reads them."""
    read: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _flag}
    values = dict(arguments)
    for name, parameter in inspect.signature(template.fn).parameters.items():
        if parameter.annotation in read and isinstance(values.get(name), str):
            try:
                values[name] = read[parameter.annotation](values[name])
            except ValueError:
                raise ArgumentsInvalid(f"{name}: not a {parameter.annotation.__name__}") from None
    return values


def _flag(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


# --- plain data -----------------------------------------------------------------------------------------------------


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data under the names of the published schema, so that rules compare what can be written in a file."""
    try:
        return {name: plain(value) for name, value in arguments.items()}
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        raise ArgumentsInvalid("an argument has no plain form that a rule could judge") from None


def plain(value: Any) -> Any:
    """One value as plain data; a secret as what it hides, for the rules alone."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, SecretStr | SecretBytes):
        return plain(value.get_secret_value())
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, BaseModel):
        fields = {str(f.alias or n): plain(getattr(value, n)) for n, f in type(value).model_fields.items()}
        return fields | {name: plain(inner) for name, inner in (value.model_extra or {}).items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return to_jsonable_python(value)
