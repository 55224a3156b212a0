"""`@enforcer` and `@policy_enforcer`: one function becomes one contribution. Nothing here judges a request."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import PolicyViolationError
from ..model import Action, Caveat, Edit, ExecutionPhase, Phase, Principal, Verdict, thawed
from .contract import Check, CheckFunction, EnforcerType, Names, NoParams, P, Params, Settings

__all__ = [
    "Macaroon",
    "Texts",
    "application_enforcers",
    "contribution_of",
    "enforcer",
    "home_of",
    "module_of",
    "place_of",
    "policy_enforcer",
]

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
F = TypeVar("F", bound=Callable[..., Any])


# --- @enforcer ------------------------------------------------------------------------------------------------------


def enforcer(
    name: str,
    *,
    params: type[P] = NoParams,  # type: ignore[assignment]  # the default of a type variable
    actions: Iterable[Action] = (Action.ALLOW, Action.ELICIT),
    phases: Iterable[Phase] = (Phase.BEFORE,),
    attenuates: bool = False,
    hides: bool = False,
    constant: bool = False,
    reads_arguments: bool = True,
    reads_result: bool = True,
    names: Names | None = None,
    timeout: float = 5.0,
    blocking: bool = False,
    settings: type[Settings] | None = None,
    version: str = "1",
    summary: str = "",
    validate: Callable[[Any, Action, Phase], str | None] | None = None,
    may_withhold: Callable[[Any, Action], Sequence[Edit]] | None = None,
    idle: Iterable[Action] = (),
    counts_together: Callable[[Any], bool] | None = None,
    stateful: bool = False,
) -> Callable[[Callable[[Check[P]], Verdict | Awaitable[Verdict]]], EnforcerType]:
    """Makes an `EnforcerType` of a function that takes one `Check` and returns a `Verdict`, sync or async.

    The options are its fields; `timeout` is in seconds, `summary` the docstring's first line unless given. Raises
    `ValueError` for a name that no rule could say, `TypeError` for a function that does not take one check, at import.
    """

    def decorate(function: Callable[[Check[P]], Verdict | Awaitable[Verdict]]) -> EnforcerType:
        _require_one_parameter(name, function)
        return EnforcerType(
            name=name,
            check=function,
            params=params,
            actions=frozenset(map(Action, actions)),
            phases=frozenset(map(Phase, phases)),
            attenuates=attenuates,
            hides=hides,
            constant=constant,
            reads_arguments=reads_arguments,
            reads_result=reads_result,
            names=names,
            timeout=timeout,
            blocking=blocking,
            settings=settings,
            version=version,
            summary=summary or _summary(function),
            validate=validate,
            may_withhold=may_withhold,
            idle=frozenset(map(Action, idle)),
            counts_together=counts_together,
            stateful=stateful,
        )

    return decorate


def _require_name(name: str) -> None:
    if not isinstance(name, str) or not NAME.match(name):
        raise ValueError(f"{name!r} cannot be a policy's name: letters, digits, _ . - and a letter first")


def _require_one_parameter(name: str, function: Callable[..., Any]) -> None:
    _require_name(name)
    if not callable(function):
        raise TypeError(f"@enforcer({name!r}) decorates a function, not {type(function).__name__}")
    try:
        inspect.signature(function).bind(object())
    except TypeError:
        place = place_of(function)
        raise TypeError(f"@enforcer({name!r}): the function takes one argument, the check; see {place}") from None


def _summary(function: Any) -> str:
    doc = inspect.getdoc(function) if inspect.isroutine(function) else None
    return doc.strip().splitlines()[0] if doc and doc.strip() else ""


# --- @policy_enforcer -----------------------------------------------------------------------------------------------


class Texts(Params):
    """Any number of positional texts, for enforcers made with `@policy_enforcer`."""

    params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Macaroon:
    """The `macaroon` that functions of `@policy_enforcer` get: an id and a principal, never caveats or a signature.

    `id` is stable for one principal and says nothing about the token he holds.
    """

    id: str
    principal: Principal


_application: dict[tuple[str, str, str], EnforcerType] = {}


def policy_enforcer(
    policy_name: str, *, attenuates: bool = False, timeout: float = 5.0, summary: str = ""
) -> Callable[[F], F]:
    """Registers a function as the policy `policy_name` for the whole process, and gives the function back unchanged.

    Its parameters are bound by name: `caveat`, `context`, `result` (the result's plain data, None before the call),
    `macaroon`, and `params` or `*params` (the rule's texts); other parameters take the rule's texts in their order, and
    `**kwargs` takes what is left of the five. It returns `[]` to pass, or caveats (texts or `Caveat`) that narrow the
    rest of this request; it raises `PolicyViolationError` to refuse, which asks where the rule says `elicit`. Any other
    answer is refused. Sync or async; it runs in a worker thread. `timeout` is in seconds.

    The same function imported again replaces itself; two functions of one name stop the start. Raises `ValueError` or
    `TypeError` at import for a name or a signature that cannot work. Source: the documentation of
    mcp-macaroon-middleware 2.0.0, API reference.
    """
    _require_name(policy_name)

    def register(function: F) -> F:
        wanted = _texts_wanted(policy_name, function)
        made = EnforcerType(
            name=policy_name,
            check=PolicyFunction(policy_name, function),
            params=Texts,
            actions=frozenset(Action),
            phases=frozenset(Phase),
            attenuates=attenuates,
            timeout=timeout,
            blocking=True,
            summary=summary or _summary(function),
            validate=partial(_enough_params, wanted),
        )
        _application[(policy_name, *home_of(function))] = made
        return function

    return register


def application_enforcers() -> tuple[EnforcerType, ...]:
    """Every enforcer that `@policy_enforcer` has registered in this process, in the order of registration."""
    return tuple(_application.values())


def contribution_of(function: object) -> EnforcerType | None:
    """The enforcer that `@policy_enforcer` made of `function`, or None."""
    for made in _application.values():
        if isinstance(made.check, PolicyFunction) and made.check.function is function:
            return made
    return None


class PolicyFunction:
    """Calls a function of the original's shapes with what a check holds, and makes a `Verdict` of what it does."""

    __slots__ = ("_name", "_signature", "function")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._signature = inspect.signature(function)
        self.function = function

    def __repr__(self) -> str:
        return f"PolicyFunction({self._name!r})"

    def __call__(self, check: Check[Texts]) -> Verdict | Awaitable[Verdict]:
        try:
            answer = self._call(check)
        except PolicyViolationError as error:
            return _refusal(check, error)
        return self._awaited(check, answer) if inspect.isawaitable(answer) else self._verdict(answer)

    def _call(self, check: Check[Texts]) -> Any:
        args, kwargs = _bound(self._signature, _values(check))
        return self.function(*args, **kwargs)

    async def _awaited(self, check: Check[Texts], answer: Awaitable[Any]) -> Verdict:
        try:
            return self._verdict(await answer)
        except PolicyViolationError as error:
            return _refusal(check, error)

    def _verdict(self, answer: Any) -> Verdict:
        """What the function returned, as a verdict; anything but a list of caveats breaks the contract (M03)."""
        if isinstance(answer, list | tuple):
            texts = [item.raw if isinstance(item, Caveat) else item for item in answer]
            if all(isinstance(text, str) and text for text in texts):
                return Verdict.allow(caveats=texts)
        return Verdict.deny(
            "enforcer_contract",
            "The policy could not be evaluated.",
            detail=f"{self._name} returned {type(answer).__name__}, not a list of caveats",
        )


def _refusal(check: Check[Texts], error: PolicyViolationError) -> Verdict:
    reason = error.reason or "The policy does not allow this."
    return check.refuse(error.code, reason, retry_after=error.retry_after)


def _values(check: Check[Texts]) -> dict[str, Any]:
    """What the original's functions are given, by parameter name."""
    return {
        "caveat": caveat_of(check),
        "context": check.request,
        "result": thawed(check.result.value) if check.result is not None else None,
        "macaroon": Macaroon(id=_macaroon_id(check.request.principal), principal=check.request.principal),
        "params": check.params.params,
    }


def caveat_of(check: Check[Texts]) -> Caveat:
    """The check's rule with the seven documented fields."""
    rule = check.rule
    return Caveat(
        raw=rule.text,
        execution_phase=ExecutionPhase(rule.phase.value),
        tool_name=rule.target.pattern,
        policy_name=rule.policy,
        action=rule.action,
        params=check.params.params,
        expiry=rule.expires,
    )


def _macaroon_id(principal: Principal) -> str:
    return hashlib.sha256(principal.key.encode()).hexdigest()[:32]


# --- binding by name ------------------------------------------------------------------------------------------------

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMES: Final = ("caveat", "context", "result", "macaroon", "params")


def _bound(signature: inspect.Signature, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments for one call; see `policy_enforcer` for the order of what goes where."""
    left = dict(values)
    texts = list(values["params"])
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind in _POSITIONAL and parameter.name in left:
            args.append(left.pop(parameter.name))
        elif parameter.kind in _POSITIONAL and texts:
            args.append(texts.pop(0))
        elif parameter.kind in _POSITIONAL and parameter.default is not parameter.empty:
            args.append(parameter.default)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            args.extend(texts)
            left.pop("params", None)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.name in left:
            kwargs[parameter.name] = left.pop(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs.update(left)
    return args, kwargs


def _texts_wanted(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters that only the rule's texts can fill. Raises `TypeError` for one that nothing can fill."""
    if not callable(function):
        raise TypeError(f"@policy_enforcer({name!r}) decorates a function, not {type(function).__name__}")
    wanted: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in _NAMES or parameter.default is not parameter.empty:
            continue
        if parameter.kind in _POSITIONAL:
            wanted.append(parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            raise TypeError(
                f"@policy_enforcer({name!r}): nothing fills the parameter {parameter.name!r}; see {place_of(function)}"
            )
    return tuple(wanted)


def _enough_params(wanted: tuple[str, ...], params: Texts, action: Action, phase: Phase) -> str | None:
    missing = wanted[len(params.params) :]
    return f"the rule lacks the param {missing[0]!r}; it takes {', '.join(wanted)}" if missing else None


# --- places ---------------------------------------------------------------------------------------------------------


def home_of(function: object) -> tuple[str, str]:
    """The file (or, where there is none, the module) and the qualified name: equal for the same function again."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    file = code.co_filename if code is not None else ""
    module = str(getattr(function, "__module__", ""))
    qualified = str(getattr(function, "__qualname__", type(function).__qualname__))
    return (module if not file or file.startswith("<") else file), qualified


def place_of(function: object) -> str:
    """Where a function is written, for messages: `module.name (file:line)`."""
    inner: Any = function.function if isinstance(function, PolicyFunction) else function
    if inner is None:
        return ""
    _, qualified = home_of(inner)
    name = f"{getattr(inner, '__module__', '')}.{qualified}"
    code = getattr(inspect.unwrap(inner) if callable(inner) else inner, "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name


def module_of(check: CheckFunction) -> str:
    """The module in which a check's function is written."""
    inner: Any = check.function if isinstance(check, PolicyFunction) else check
    return str(getattr(inner, "__module__", ""))
