"""Which route of an application a request is for, under every name that a rule may call it by. It runs nothing.

A route is named by its template; `/customers/7` and every other spelling of that path are one path of it. A path that
could mean something else to whoever resolves it than to whoever judges it is objected to, whatever the rules say.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote

from starlette.convertors import PathConvertor
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Match
from starlette.types import Scope

from ..model import EMPTY, Component, Kind
from ..rules import escape_objection, path_objection, value_objection
from .asgi_fields import Fields

logger: Final = logging.getLogger("mcp_macaroon_middleware")

DEEPEST: Final = 64
"""Layers of middleware that are looked through for an application's routes."""
LONGEST_NAME: Final = 400
NOTHING: Final = Fields()
_PARAM: Final = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::[a-zA-Z_][a-zA-Z0-9_]*)?\}")
_VERBS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a request is for. `params` are the path's own, as the route takes them; `clashes` those taken in two ways.

    `objection` says why the request is refused whatever the rules say. `is_route`: the application has a route for it.
    `opaque` is where routes cannot be told: under this template, or under "" for none at all.
    """

    component: Component
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY, repr=False)
    clashes: frozenset[str] = frozenset()
    fields: Fields = NOTHING
    objection: str = ""
    is_route: bool = False
    opaque: str | None = None

    def misses(self, templates: Iterable[str]) -> bool:
        """Whether one of these templates may be a route that cannot be told here, so that its rules would be lost."""
        under = None if self.opaque is None else self.opaque + "/"
        return under is not None and any(each.startswith(under) and "{" in each[len(under) :] for each in templates)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """A route that takes a request. `steps` are its templates from the outermost on, each with its convertors.

    `rest` is what an application without routes of its own is mounted for.
    """

    steps: tuple[tuple[str, Mapping[str, Any]], ...]
    params: Mapping[str, Any]
    rest: str
    fields: Fields
    opaque: bool

    @property
    def template(self) -> str:
        return "".join(template for template, _ in self.steps)

    def path(self, params: Mapping[str, Any]) -> str:
        """The path that the template stands for with these parameters."""
        return "".join(_filled(template, convertors, params) for template, convertors in self.steps) + self.rest

    @property
    def objection(self) -> str:
        """Why the request is refused for what it gives where a whole path may stand, or nothing."""
        given = [
            str(self.params[name])
            for _, convertors in self.steps
            for name, convertor in convertors.items()
            if isinstance(convertor, PathConvertor) and name in self.params
        ]
        return next(filter(None, map(path_objection, (*given, self.rest))), "")


class Routes:
    """The routes of a wrapped application. `wrapper` is what wraps it."""

    def __init__(self, app: Any, wrapper: Any) -> None:
        self._app = app
        self._wrapper = wrapper

    def find(self, scope: Scope) -> Found:
        """What a request is for. What cannot be told is objected to."""
        path = route_path(scope)
        objection = _objection(path, scope.get("raw_path") or b"")
        routes = self._routes(scope)
        try:
            route = _taking({**scope}, routes) if routes is not None and not objection else None
            objection = objection or (route.objection if route is not None else "")
            return _found(scope, path, route, objection, opaque="" if routes is None else None)
        except Exception as error:
            logger.error("a route could not be told: %s", type(error).__name__)
            return _found(scope, path, None, "a path whose route cannot be told")

    def lacks(self, scope: Scope) -> bool:
        """Whether the application has routes, and surely none for this request."""
        routes = self._routes(scope)
        return routes is not None and not self.find(scope).is_route

    def beside(self, scope: Scope) -> Iterator[Found]:
        """The routes that the application would tell of in its answer to a request that none of them takes.

        Those for other methods of its path (405, with their names), and with a slash more or less (a redirect).
        """
        routes, path = self._routes(scope), str(scope["path"])
        for other in (path, path.rstrip("/") if path.endswith("/") else path + "/"):
            place = {**scope, "path": other, "raw_path": quote(other).encode()}
            for method in dict.fromkeys(_methods_at(place, routes or ())):
                found = self.find({**place, "method": method})
                if found.is_route:
                    yield found

    def absent(self, scope: Scope) -> str:
        """A path that is surely nobody's, of the same application that would answer for the request's own path."""
        try:
            root = _innermost({**scope}, self._routes(scope))
        except Exception as error:
            logger.error("a route could not be told: %s", type(error).__name__)
            root = scope.get("root_path", "")
        return f"{root}/{secrets.token_hex(16)}"

    def _routes(self, scope: Scope) -> Sequence[Any] | None:
        """The routes of what is wrapped: never those of an application that it is mounted in."""
        found = routes_of(self._app)
        outer = scope.get("app")
        if found is None and any(layer is self._wrapper for layer in _layers(getattr(outer, "middleware_stack", None))):
            found = routes_of(outer)
        return found


def routes_of(app: Any) -> Sequence[Any] | None:
    """The routes of an application, through the middleware around it; None where it has no router."""
    return next((routes for layer in _layers(app) if (routes := getattr(layer, "routes", None)) is not None), None)


def route_path(scope: Scope) -> str:
    """The path as the application's own routes see it: without what it is mounted under. Source: ASGI, `root_path`."""
    path, root = str(scope.get("path", "/")), str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(root + "/") else path


# --- names ------------------------------------------------------------------------------------------------------------


def _found(scope: Scope, path: str, route: _Route | None, objection: str, *, opaque: str | None = None) -> Found:
    method = scope["method"].upper()
    method = "GET" if method == "HEAD" else method
    if objection:
        name = f"{method} {path or '/'}"[:LONGEST_NAME]
        return Found(component=Component(kind=Kind.TOOL, name=name, names=(name,), uri=name), objection=objection)
    if route is None:
        name = f"{method} {path or '/'}"
        names = _spelled(method, [path or "/", scope.get("path", "/")], name)
        return Found(component=Component(kind=Kind.TOOL, name=name, names=names, uri=name), opaque=opaque)
    ways = route.fields.taken(route.params)
    paths = [route.path(way) for way in (*ways, route.params)]
    exposed = f"{method} {route.template or path or '/'}"
    plain = _PARAM.sub(r"{\1}", route.template)
    component = Component(
        kind=Kind.TOOL,
        name=exposed,
        names=_spelled(method, [*paths, path, scope.get("path", "/"), plain], exposed),
        uri=f"{method} {paths[0] or '/'}",
    )
    clashes = frozenset(name for name in ways[0] if any(str(way[name]) != str(ways[0][name]) for way in ways))
    opaque = route.template if route.opaque else None
    return Found(
        component=component, params=ways[0], clashes=clashes, fields=route.fields, is_route=True, opaque=opaque
    )


def _spelled(method: str, paths: Iterable[str], exposed: str) -> tuple[str, ...]:
    """Every name that a restricting rule may use; the last is what the route is called where it is defined."""
    forms = [form for path in paths for form in (path, path.rstrip("/") or "/", path.rstrip("/") + "/")]
    return (*dict.fromkeys(name for form in forms if (name := f"{method} {form}") != exposed), exposed)


def _filled(template: str, convertors: Mapping[str, Any], params: Mapping[str, Any]) -> str:
    return _PARAM.sub(lambda match: _text(params[match[1]], convertors.get(match[1])), template)


def _text(value: Any, convertor: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.20f}".rstrip("0").rstrip(".")
    if isinstance(value, int) or convertor is None:
        return str(value)
    return str(convertor.to_string(value))


def _objection(path: str, raw: bytes) -> str:
    """Why a path is refused whatever the rules say, or nothing."""
    why = escape_objection(raw.decode("latin-1")) or value_objection(path)
    return why or ("an empty segment" if "" in path.split("/")[1:-1] else "")


# --- routes -----------------------------------------------------------------------------------------------------------


def _taking(scope: Scope, routes: Sequence[Any]) -> _Route | None:
    """The first route that takes the request, as a router chooses it. Raises `LookupError` for one without a name."""
    for route in _flat(routes):
        match, inner = route.matches(scope)
        if match is Match.FULL and _answers(route, scope["method"]):
            return _named(route, {**scope, **inner})
    return None


def _innermost(scope: Scope, routes: Sequence[Any] | None) -> str:
    """What the application that answers for a path is mounted under, of those that show their routes."""
    for route in _flat(routes or ()):
        match, inner = route.matches(scope)
        if match is Match.FULL:
            nested = _nested(route)
            return _innermost({**scope, **inner}, nested) if nested else str(scope.get("root_path", ""))
    return str(scope.get("root_path", ""))


def _methods_at(scope: Scope, routes: Iterable[Any]) -> Iterator[str]:
    """The methods of every route at a path."""
    for route in _flat(routes):
        match, inner = route.matches(scope)
        if match is not Match.NONE:
            nested = _nested(route)
            yield from _methods_at({**scope, **inner}, nested) if nested else _methods_of(route) or (scope["method"],)


def _methods_of(route: Any) -> Sequence[str]:
    """The methods that a route says it takes; none where it says nothing."""
    methods, endpoint = getattr(route, "methods", None), getattr(route, "endpoint", None)
    if methods or not (isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)):
        return tuple(methods or ())
    own = [verb for verb in _VERBS if hasattr(endpoint, verb.lower()) or (verb == "HEAD" and hasattr(endpoint, "get"))]
    return own if endpoint.dispatch is HTTPEndpoint.dispatch else ()


def _answers(route: Any, method: str) -> bool:
    """Whether a route that matches has code for a method: a class of endpoints answers others with 405 by itself."""
    methods = _methods_of(route)
    return not methods or method in methods


def _named(route: Any, scope: Scope) -> _Route | None:
    template = getattr(route, "path", None)
    if not isinstance(template, str):
        if not hasattr(route, "host"):
            raise LookupError("a route without a path")
        template = ""
    step = (template, getattr(route, "param_convertors", EMPTY) if template else EMPTY)
    params = scope.get("path_params", EMPTY)
    nested = _nested(route)
    if not nested:
        opaque = _is_mount(route) or not template
        rest = route_path(scope) if opaque else ""
        return _Route(steps=(step,), params=params, rest=rest, fields=Fields.of(route), opaque=opaque)
    inner = _taking(scope, nested)
    if inner is None:
        return None
    return replace(inner, steps=(step, *inner.steps))


def _nested(route: Any) -> Sequence[Any] | None:
    """The routes of the application behind a route; None where there is none, or it does not show them."""
    return None if hasattr(route, "path_regex") and not _is_mount(route) else routes_of(getattr(route, "app", None))


def _is_mount(route: Any) -> bool:
    """Whether another application stands behind a route."""
    return hasattr(route, "host") or hasattr(route, "routes")


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes with those of included routers in their places, as FastAPI keeps them apart."""
    for route in routes:
        inner = getattr(route, "effective_route_contexts", None)
        if inner is None:
            yield route
        else:
            for context in inner():
                yield getattr(context, "starlette_route", None) or context


def _layers(app: Any) -> Iterator[Any]:
    """An application and what it wraps, from the outside in."""
    for _ in range(DEEPEST):
        if app is None:
            return
        yield app
        app = getattr(app, "app", None)
