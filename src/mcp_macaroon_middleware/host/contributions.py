"""Takes from one loaded module what it contributes, and says what is wrong with it. It imports no plugin.

pluggy runs here and nowhere else: each plugin has a manager of its own, so no plugin sees or wraps another's hooks.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType
from typing import Any, Final

import pluggy

from ..model import Action, Assurance, Phase
from ..plugin import API_VERSION, hookspecs
from ..plugin.contract import (
    ApproverType,
    AuditSinkType,
    Contribution,
    EnforcerType,
    KeySourceType,
    Params,
    Settings,
    StoreType,
)
from ..plugin.decorators import NAME, application_enforcers, module_of
from .faults import cause, one_line
from .registry import kind_of, label_of, name_of, nearest

MOST: Final = 1000
LONGEST_WAIT: Final = 60.0
HOOKS: Final = tuple(name for name in vars(hookspecs) if name.startswith("macaroon_"))
_RETURNS: Final[dict[str, type[Any]]] = {
    "macaroon_enforcers": EnforcerType,
    "macaroon_stores": StoreType,
    "macaroon_audit_sinks": AuditSinkType,
    "macaroon_approvers": ApproverType,
    "macaroon_key_sources": KeySourceType,
}
_SOURCE: Final = re.compile(r"[a-z][a-z0-9+.-]+\Z")  # one letter is a drive
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*\Z")


@dataclass(slots=True)
class Gathered:
    """What a module contributes, in the order found, and what is wrong with it, each in one line."""

    contributions: list[Contribution] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, contribution: Contribution, *, builtin: bool) -> None:
        """Takes one contribution, unless it is there already or something is wrong with it."""
        if any(known is contribution for known in self.contributions):
            return
        faults = list(contribution_faults(contribution, builtin=builtin))
        self.faults += faults
        if not faults:
            self.contributions.append(contribution)


def gather(module: ModuleType, *, builtin: bool = False) -> Gathered:
    """Everything that a loaded module contributes: objects in it, decorated functions in and below it, its hooks."""
    gathered = Gathered()
    version = getattr(module, "MACAROON_API_VERSION", API_VERSION)
    if version != API_VERSION:
        gathered.faults.append(f"it is for version {one_line(version)} of the plugin contract, not {API_VERSION}")
        return gathered
    for value in list(vars(module).values()):
        if isinstance(value, EnforcerType | StoreType | AuditSinkType | ApproverType | KeySourceType):
            gathered.add(value, builtin=builtin)
    for made in application_enforcers():
        if belongs_to(made, module.__name__):
            gathered.add(made, builtin=builtin)
    _run_hooks(module, gathered, builtin=builtin)
    return gathered


def belongs_to(made: EnforcerType, package: str) -> bool:
    """Whether an enforcer's function is written in `package`, a module's name or that of a package around it."""
    return f"{module_of(made.check)}.".startswith(f"{package}.")


# --- hooks ----------------------------------------------------------------------------------------------------------


def _run_hooks(module: ModuleType, gathered: Gathered, *, builtin: bool) -> None:
    gathered.faults += _unmarked(module)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, module.__name__)
        callers = manager.get_hookcallers(module) or []
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a plugin's module does when it is looked at
        gathered.faults.append(f"its hooks cannot be registered: {cause(error)}")
        return
    for caller in sorted(callers, key=lambda caller: caller.name):
        if not caller.has_spec():
            gathered.faults.append(_unknown_hook(caller.name))
            continue
        for implementation in caller.get_hookimpls():
            _run_hook(caller.name, implementation, gathered, builtin=builtin)


def _run_hook(name: str, implementation: pluggy.HookImpl, gathered: Gathered, *, builtin: bool) -> None:
    if implementation.hookwrapper or implementation.wrapper:
        gathered.faults.append(f"{name}: hook wrappers are not offered")
        return
    try:
        yielded = _yielded(implementation.function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        gathered.faults.append(f"{name} raised {cause(error)}")
        return
    if isinstance(yielded, str):
        gathered.faults.append(f"{name} {yielded}")
        return
    expected = _RETURNS[name]
    for item in yielded:
        if isinstance(item, expected):
            gathered.add(item, builtin=builtin)
        else:
            gathered.faults.append(f"{name} yielded {type(item).__name__}, not {expected.__name__}")


def _yielded(function: Callable[[], object]) -> list[Any] | str:
    """What a hook yields, or what is wrong with its answer."""
    answer = function()
    if inspect.iscoroutine(answer):
        answer.close()
        return "is async; hooks are called once, at start, and are not"
    if not isinstance(answer, Iterable) or isinstance(answer, str | bytes):
        return f"returned {type(answer).__name__}, not an iterable of contributions"
    items = list(islice(answer, MOST + 1))
    return items if len(items) <= MOST else f"yields more than {MOST} contributions"


def _unmarked(module: ModuleType) -> Iterator[str]:
    """Functions that look like hooks and lack `@hookimpl`: they would be overlooked without a word."""
    marker = f"{hookspecs.PROJECT}_impl"
    for name, value in list(vars(module).items()):
        own = inspect.isroutine(value) and getattr(value, "__module__", None) == module.__name__
        if name.startswith("macaroon_") and own and not hasattr(value, marker):
            yield f"{name} lacks @hookimpl"


def _unknown_hook(name: str) -> str:
    near = nearest(name, HOOKS)
    return f"no hook named {name!r}" + (f"; did you mean {near!r}?" if near else f"; there are {', '.join(HOOKS)}")


# --- contributions --------------------------------------------------------------------------------------------------


def contribution_faults(contribution: Contribution, *, builtin: bool = False) -> Iterator[str]:
    """What is wrong with a description, in one line each. It is never called here."""
    name = name_of(contribution)
    if not isinstance(name, str) or not _form(contribution).match(name):
        yield f"{one_line(repr(name))} cannot be the name of {_article(kind_of(contribution))}"
        return
    label = label_of(contribution)
    settings = contribution.settings
    if settings is not None and not _is_model(settings, Settings):
        yield f"{label}: settings is not a subclass of Settings"
    if isinstance(contribution, EnforcerType):
        yield from (f"{label}: {fault}" for fault in _enforcer_faults(contribution, builtin=builtin))
        return
    if isinstance(contribution, KeySourceType):
        yield from (f"{label}: {fault}" for fault in _source_faults(contribution))
        return
    if not callable(contribution.open):
        yield f"{label}: open cannot be called"
    if isinstance(contribution, StoreType) and not _is_seconds(contribution.timeout):
        yield f"{label}: timeout is not a number of seconds above 0"
    if isinstance(contribution, ApproverType):
        yield from (f"{label}: {fault}" for fault in _approver_faults(contribution))
    if isinstance(contribution, AuditSinkType) and not _is_model(contribution.options, Settings):
        yield f"{label}: options is not a subclass of Settings"


def _enforcer_faults(enforcer: EnforcerType, *, builtin: bool) -> Iterator[str]:
    if not callable(enforcer.check):
        yield "check cannot be called"
    if not _is_model(enforcer.params, Params):
        yield "params is not a subclass of Params"
    else:
        named = {*enforcer.params.named, *([enforcer.params.rest] if enforcer.params.rest is not None else [])}
        yield from (f"params: no field named {name!r}" for name in sorted(named - set(enforcer.params.model_fields)))
    for field_name, kind in (("actions", Action), ("phases", Phase)):
        given = getattr(enforcer, field_name)
        if not isinstance(given, frozenset) or not given or not all(isinstance(item, kind) for item in given):
            yield f"{field_name} is not a set of {kind.__name__}"
    if not isinstance(enforcer.idle, frozenset) or not all(action in enforcer.actions for action in enforcer.idle):
        yield "idle is not a part of actions"
    if not _is_seconds(enforcer.timeout):
        yield "timeout is not a number of seconds above 0"
    if enforcer.constant and inspect.iscoroutinefunction(enforcer.check):
        yield "a constant check cannot be async"
    if enforcer.grants and not builtin:
        yield "only tool_access grants; every other policy only restricts"


def _approver_faults(approver: ApproverType) -> Iterator[str]:
    if not isinstance(approver.assurance, Assurance):
        yield "assurance is no Assurance"
    elif approver.in_band and approver.assurance > Assurance.CLIENT:
        yield "an answer that comes through the caller's client proves no more than Assurance.CLIENT"
    if isinstance(approver.most, bool) or not isinstance(approver.most, int) or approver.most < 1:
        yield "most is no number of characters"


def _source_faults(source: KeySourceType) -> Iterator[str]:
    if not callable(source.fetch) or inspect.iscoroutinefunction(source.fetch):
        yield "fetch cannot be called, or is async"
    if not _is_seconds(source.timeout) or source.timeout > LONGEST_WAIT:
        yield f"timeout is not a number of seconds above 0, at most {LONGEST_WAIT:.0f}"


def _form(contribution: Contribution) -> re.Pattern[str]:
    """The form of a contribution's name."""
    if isinstance(contribution, KeySourceType):
        return _SOURCE
    return _SCHEME if isinstance(contribution, StoreType) else NAME


def _is_seconds(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < math.inf


def _is_model(value: object, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
