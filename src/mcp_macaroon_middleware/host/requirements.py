"""Compares what the file says under `plugins:` with the plugins that were found. It loads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..errors import Diagnostic
from .faults import one_line
from .registry import PluginInfo, nearest

OWN: Final = "mcp-macaroon-middleware"
BUILTIN: Final = "builtin"
_EXAMPLE: Final = 'write it like "mcp-macaroon-schedule>=3,<4"'


def unmet(
    found: Sequence[PluginInfo], *, allow: Sequence[str] | None, disable: Sequence[str], require: Sequence[str]
) -> Iterator[Diagnostic]:
    """Requirements that no found plugin meets, and names under `allow` and `disable` that nothing bears."""
    for text in require:
        problem = _requirement_problem(text, found)
        if problem is not None:
            yield problem
    names = {info.name for info in found}
    distributions = {canonicalize_name(info.distribution) for info in found if info.distribution}
    for name in allow or ():
        if canonicalize_name(name) not in distributions:
            yield _nobody("allow", name, distributions, _by_plugin_name(name, found))
    for name in disable:
        if name == BUILTIN or canonicalize_name(name) == OWN:
            yield Diagnostic(code="plugin_builtin", message="plugins.disable: the built-in plugin cannot be left out")
        elif name not in names and canonicalize_name(name) not in distributions:
            yield _nobody("disable", name, names | distributions)


def _by_plugin_name(name: str, found: Sequence[PluginInfo]) -> str:
    """`allow` goes by distribution: the name of an entry point is free for anybody to choose."""
    owners = [info.distribution for info in found if info.name == name and info.distribution]
    return f"allow goes by distribution: write {owners[0]}" if owners else ""


def _nobody(key: str, name: str, known: Iterable[str], hint: str = "") -> Diagnostic:
    near = nearest(name, sorted(known))
    return Diagnostic(
        code="plugin_unknown",
        message=f"plugins.{key} names {name!r}, and nothing of that name is installed",
        hint=hint or (f"did you mean {near!r}?" if near else "see  mcp-macaroon plugins list"),
        severity="warning",
    )


def _requirement_problem(text: str, found: Sequence[PluginInfo]) -> Diagnostic | None:
    try:
        need = Requirement(text)
    except InvalidRequirement as error:
        return _problem(f"{one_line(text)!r} is no requirement: {one_line(error)}", _EXAMPLE)
    if need.url is not None:
        return _problem(f"{one_line(text)!r}: a requirement names a version, not an address", _EXAMPLE)
    if need.marker is not None and not need.marker.evaluate():
        return None
    installed = [info for info in found if canonicalize_name(info.distribution) == canonicalize_name(need.name)]
    if not installed:
        return _problem(f"no plugin of {need.name} is installed", f"pip install {text!r}")
    info = installed[0]
    if not need.specifier.contains(info.version, prereleases=True):
        return _problem(f"{info.origin} is installed, and {need} is needed", f"pip install {text!r}")
    if info.status in ("disabled", "not allowed"):
        return _problem(f"{need.name} is required, and {info.status}: {info.why}")
    return None


def _problem(message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(code="plugin_missing", message=f"plugins.require: {message}", hint=hint)
