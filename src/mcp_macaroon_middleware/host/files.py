"""Loads one Python file as a plugin, for `plugins: {files: [./mine.py]}`. It looks at nothing but that file."""

from __future__ import annotations

import os
import stat
import sys
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from .faults import cause


def module_name(path: Path) -> str:
    """The name that the file has as a module: its own, and no other module's."""
    return f"_macaroon_file_{sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"


def file_fault(path: Path) -> str:
    """Why the file may not be loaded, or nothing. Who can write to it could run code here."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return "there is no such file"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {cause(error)}"
    if path.suffix != ".py" or not stat.S_ISREG(facts.st_mode):
        return "it is not a Python file"
    if os.name == "posix" and facts.st_mode & stat.S_IWOTH:
        return f"everybody may write to it; chmod o-w {path}"
    return ""


def load_file(path: Path) -> ModuleType:
    """The file as a module. It runs once a process, as an import would; a changed file needs a restart.

    Raises whatever the file raises.
    """
    name = module_name(path)
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path.name}")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
