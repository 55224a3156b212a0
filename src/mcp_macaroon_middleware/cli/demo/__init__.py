"""`mcp-macaroon demo`: a guarded server, real clients, one screen a scene; exits non-zero if one went otherwise."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from .stage import Scene, Stage, Step

ERAS = {"2026-07-28": None, "2025-11-25": "legacy"}


def demo(
    *,
    only: Annotated[tuple[str, ...], Parameter(help="Play only these scenes, by name.")] = (),
    list_scenes: Annotated[bool, Parameter(name="--list", help="List the scenes and stop.")] = False,
) -> int:
    """Show a guarded MCP server at work: real HTTP on loopback, real clients of both protocol eras, two users.

    Exit codes: 0 every scene went as it should, 1 one did not, 2 no such scene.
    """
    from .scenes import SCENES

    console = Console()
    if list_scenes:
        for scene in SCENES:
            console.print(f"{scene.name:10} {scene.title}", highlight=False)
        return 0
    unknown = sorted(set(only) - {scene.name for scene in SCENES})
    if unknown:
        print(f"no scene named {', '.join(unknown)}; try: mcp-macaroon demo --list", file=sys.stderr)
        return 2
    with _quiet():
        return asyncio.run(_play(console, only))


@contextmanager
def _quiet() -> Iterator[None]:
    """Refusals are what is shown here, not news: loggers are still as long as the scenes last."""
    loggers = [logging.getLogger(name) for name in ("fastmcp", "mcp", "mcp_macaroon_middleware")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


async def _play(console: Console, only: tuple[str, ...]) -> int:
    from .scenes import SCENES

    failed: list[str] = []
    started = time.perf_counter()
    chosen = [scene for scene in SCENES if not only or scene.name in only]
    for number, scene in enumerate(chosen, 1):
        stages = {protocol: await _staged(scene, era) for protocol, era in ERAS.items()}
        console.print(_screen(f"{number}. {scene.title}", scene.text, stages))
        failed += [f"{scene.name} ({protocol})" for protocol, stage in stages.items() if not stage.right]
    seconds = time.perf_counter() - started
    if failed:
        console.print(f"[bold red]went otherwise:[/] {', '.join(failed)}", highlight=False)
        return 1
    console.print(f"[bold green]all {len(chosen)} scenes went as they should[/] in both protocols, {seconds:.0f} s")
    return 0


async def _staged(scene: Scene, era: str | None) -> Stage:
    from .stage import played
    from .world import world

    async with world(era) as stage_world:
        return await played(scene, stage_world)


def _screen(title: str, text: str, stages: Mapping[str, Stage]) -> Panel:
    """One scene: what was seen in the first protocol, and in another whatever was done or went otherwise there."""
    first, *others = stages
    parts: list[RenderableType] = [Text(f"{text}\n", style="dim"), *_steps(stages[first].steps)]
    for protocol in others:
        differing = _differing(stages[first], stages[protocol])
        went = ("in its own way" if stages[protocol].right else "otherwise") if differing else "the same"
        parts.append(Text(f"Protocol {protocol}: {went}", style="dim"))
        parts += [Text(), *_steps(differing)] if differing else []
    return Panel(Group(*parts), title=f"{title}  ({first})", title_align="left", padding=(1, 2))


def _differing(first: Stage, other: Stage) -> Sequence[Step]:
    """The steps to be shown of another protocol: all where others were taken, else those that went wrong."""
    same = [step.did for step in first.steps] == [step.did for step in other.steps]
    return [step for step in other.steps if not step.right] if same else other.steps


def _steps(steps: Sequence[Step]) -> Iterator[RenderableType]:
    for step in steps:
        mark = ("✓ ", "green") if step.right else ("✗ ", "bold red")
        yield Text.assemble(mark, (step.did, "bold"))
        yield Padding(Text(step.saw), (0, 0, 1, 4))
