"""What a server is called, from the command that starts it: its package, never the program that runs packages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final
from urllib.parse import urlsplit

from ..errors import ConfigError

RUNNERS: Final = {"npx", "bunx", "uvx", "pipx", "uv", "npm", "pnpm", "yarn", "bun", "deno"}
INTERPRETERS: Final = re.compile(
    r"(python|pythonw|pypy)([0-9.]*)|node|nodejs|ruby|sh|bash|zsh|env|java|dotnet|tsx|ts-node"
)
CONTAINERS: Final = {"docker", "podman", "nerdctl"}
WORDS: Final = {"run", "x", "exec", "dlx", "tool", "create", "start", "--"}
TAKES_A_VALUE: Final = {
    "-p",
    "--package",
    "--from",
    "--with",
    "--python",
    "-e",
    "--env",
    "-v",
    "--volume",
    "--name",
    "--directory",
    "--project",
    "--mount",
    "--network",
    "-w",
    "-u",
}
"""Options of runners and container tools whose next word is theirs; `--package` and `--from` name the package."""
PACKAGES: Final = {"-p", "--package", "--from"}
NOTHING: Final = {
    "index",
    "main",
    "cli",
    "server",
    "app",
    "start",
    "mcp",
    "__main__",
    "run",
    "bin",
    "dist",
    "build",
    "src",
    "lib",
    "out",
}
"""Names of files and folders that say nothing about what a server is."""
_CLEAN: Final = re.compile(r"[^A-Za-z0-9._-]+")


def server_name(command: Sequence[str], url: str | None = None) -> str:
    """A server's name. Raises `ConfigError` where its command says nothing; then `--name` must."""
    if url is not None:
        return str(urlsplit(url).hostname)
    program = PurePath(command[0]).stem if command[0].lower().endswith(".exe") else PurePath(command[0]).name
    found = _named(program, list(command[1:]))
    name = _CLEAN.sub("-", found).strip("-.")
    if not name:
        raise ConfigError(f"{program!r} runs any server; name this one:  --name NAME")
    return name


def _named(program: str, rest: list[str]) -> str:
    if program in CONTAINERS:
        return _image(rest)
    if program in RUNNERS:
        return _package(rest)
    if INTERPRETERS.fullmatch(program):
        return _script(rest)
    return program if program not in NOTHING else ""


def _package(words: list[str]) -> str:
    word = _first(words)
    name = word.rpartition("/")[2] if word.startswith("@") else word
    if INTERPRETERS.fullmatch(name):  # uv run python server.py
        return _script(words[words.index(word) + 1 :])
    if "/" in name or name.endswith((".py", ".js", ".ts", ".mjs")):
        return _path(name)
    return re.split(r"[@=<>~\[]", name, maxsplit=1)[0]


def _script(words: list[str]) -> str:
    for number, word in enumerate(words):
        if word in ("-m", "--module") and number + 1 < len(words):
            return words[number + 1].partition(".")[0]
        if word in ("-c", "-e", "--eval"):
            return ""
        if word == "-jar" and number + 1 < len(words):
            return PurePath(words[number + 1]).stem
        if not word.startswith("-"):
            return _path(word) if "=" not in word else ""
    return ""


def _path(text: str) -> str:
    """The name of a script: the package that it belongs to, or its own, or that of the nearest folder which has one."""
    path = Path(text)
    for folder in path.absolute().parents:
        try:
            name = json.loads((folder / "package.json").read_text(encoding="utf-8")).get("name")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(name, str) and name:
            return name.rpartition("/")[2]
    parts = [path.stem, *(folder.name for folder in path.absolute().parents)]
    return next((part for part in parts if part and part.lower() not in NOTHING), "")


def _image(words: list[str]) -> str:
    word = _first(words)
    return re.split(r"[:@]", word.rpartition("/")[2], maxsplit=1)[0]


def _first(words: list[str]) -> str:
    """The first word that is no option of the runner's, no value of one and no command of its own."""
    skip = False
    for number, word in enumerate(words):
        if skip:
            skip = False
        elif word in PACKAGES and number + 1 < len(words):
            return words[number + 1]
        elif word in TAKES_A_VALUE:
            skip = True
        elif not word.startswith("-") and word not in WORDS:
            return word
    return ""
