"""Imports a FastMCP server object from a file or module, for commands that look at a server. It starts nothing."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ..errors import BindError

USUAL_NAMES: Final = ("mcp", "server", "app")


def load_server(spec: str) -> Any:
    """The server that `server.py:mcp` or `package.module:mcp` names; without a name, `mcp`, `server` or `app`.

    A function is called without arguments. What the module prints goes to standard error. Raises `BindError` with
    what was tried and why it failed.
    """
    where, _, name = spec.rpartition(":") if ":" in spec and not spec.endswith(".py") else (spec, "", "")
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = _attribute(_module(where), name, where)
            return asyncio.run(_called(found)) if _is_factory(found) else found
        except BindError:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the module does, SystemExit too
            raise _failed(f"{spec} cannot be loaded: {type(error).__name__}: {error}") from error


def _module(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    if not path.is_file():
        raise _failed(f"there is no file {where}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise _failed(f"{where} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, where: str) -> Any:
    names = (name,) if name else USUAL_NAMES
    for candidate in names:
        found: Any = module
        for part in candidate.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise _failed(f"{where} has no {' or '.join(repr(candidate) for candidate in names)}")


def _is_factory(found: Any) -> bool:
    return inspect.isfunction(found) or inspect.ismethod(found)


async def _called(factory: Any) -> Any:
    server = factory()
    return await server if inspect.isawaitable(server) else server


def _failed(message: str) -> BindError:
    return BindError(message, code="server_not_loaded")
