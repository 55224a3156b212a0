"""What a scene is made of: steps that are done, seen and judged. It knows no scene."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastmcp import Client
from fastmcp.exceptions import ToolError

from .world import World


@dataclass(slots=True)
class Step:
    """One thing that happened: what was done, what was seen, and whether that is what should be seen."""

    did: str
    saw: str
    right: bool


@dataclass(slots=True)
class Stage:
    """Collects the steps of a scene. `record` is an audit record worth showing, if one was kept."""

    world: World
    steps: list[Step] = field(default_factory=list)
    record: Mapping[str, Any] | None = None

    def show(self, did: str, saw: Any, right: bool) -> None:
        """Notes a step."""
        text = saw if isinstance(saw, str) else json.dumps(saw, ensure_ascii=False)
        self.steps.append(Step(did=did, saw=text, right=right))

    @property
    def right(self) -> bool:
        """Whether the scene went as it should."""
        return bool(self.steps) and all(step.right for step in self.steps)


@dataclass(frozen=True, slots=True)
class Scene:
    """A titled scene; the text says what it shows. `rules` are words of the policy file's lines that it is about."""

    name: str
    title: str
    text: str
    play: Callable[[Stage], Awaitable[None]]
    rules: tuple[str, ...] = ()

    def lines(self, policies: str) -> list[str]:
        """The lines of a policy file that the scene is about, as they stand there."""
        section = policies.partition("\npolicies:\n")[2]
        rules = re.split(r"\n(?=  - )", section.rstrip("\n"))
        return [rule for rule in rules if any(word in rule for word in self.rules)]


async def played(scene: Scene, world: World) -> Stage:
    """Plays a scene in a world; one that breaks off has gone otherwise, and says at what."""
    stage = Stage(world)
    try:
        await scene.play(stage)
    except Exception as error:
        stage.show("the scene broke off", f"{type(error).__name__}: {error}", False)
    return stage


async def call(client: Client[Any], tool: str, **arguments: Any) -> tuple[bool, Any]:
    """Calls a tool: whether it succeeded, and its data or the refusal's text."""
    try:
        result = await client.call_tool(tool, arguments)
    except ToolError as error:
        return False, str(error)
    return True, result.structured_content or result.data
