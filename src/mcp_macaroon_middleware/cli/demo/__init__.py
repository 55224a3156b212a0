"""`mcp-macaroon demo`: a guarded server, real clients, one screen a scene; exits non-zero if one went otherwise."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

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
    all_scenes: Annotated[
        bool, Parameter(name="--all", negative="", help="Play every scene, not the first three.")
    ] = False,
    list_scenes: Annotated[bool, Parameter(name="--list", help="List the scenes and stop.")] = False,
) -> int:
    """Show a guarded MCP server at work: its rules, what happens, and what the audit log says of it.

    Real HTTP on loopback, real clients of both protocol eras, two users. It plays three scenes; --all plays the rest:
    limits, plugins, reloads, approvals under attack, tokens, and an existing server behind `protect`.

    Exit codes: 0 every scene went as it should, 1 one did not, 2 no such scene.
    """
    from .scenes import FIRST, SCENES

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
        return asyncio.run(_play(console, only or (() if all_scenes else FIRST)))


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
    from .scenes import FIRST, SCENES

    failed: list[str] = []
    started = time.perf_counter()
    chosen = [scene for scene in SCENES if not only or scene.name in only]
    for number, scene in enumerate(chosen, 1):
        stages = {protocol: await _staged(scene, era) for protocol, era in ERAS.items()}
        console.print(_screen(f"{number}. {scene.title}", scene, stages))
        for record in [stage.record for stage in stages.values() if stage.record is not None][:1]:
            console.print(_record(record))
        failed += [f"{scene.name} ({protocol})" for protocol, stage in stages.items() if not stage.right]
    seconds = time.perf_counter() - started
    if failed:
        console.print(f"[bold red]went otherwise:[/] {', '.join(failed)}", highlight=False)
        return 1
    console.print(f"[bold green]all {len(chosen)} scenes went as they should[/] in both protocols, {seconds:.0f} s")
    if len(chosen) < len(SCENES) and not set(only) - set(FIRST):
        console.print(f"--all plays all {len(SCENES)}, --list names them", style="dim", highlight=False)
    return 0


async def _staged(scene: Scene, era: str | None) -> Stage:
    from .stage import played
    from .world import world

    async with world(era) as stage_world:
        return await played(scene, stage_world)


def _screen(title: str, scene: Scene, stages: Mapping[str, Stage]) -> Panel:
    """One scene: its rules, what was seen in the first protocol, and what was done or went otherwise in another."""
    from .world import POLICIES

    first, *others = stages
    parts: list[RenderableType] = [Text(f"{scene.text}\n", style="dim")]
    rules = scene.lines(POLICIES)
    if rules:
        parts += [Text("policies:", style="cyan"), *(Text(rule, style="cyan") for rule in rules), Text()]
    parts += _steps(stages[first].steps)
    for protocol in others:
        differing = _differing(stages[first], stages[protocol])
        went = ("in its own way" if stages[protocol].right else "otherwise") if differing else "the same"
        parts.append(Text(f"Protocol {protocol}: {went}", style="dim"))
        parts += [Text(), *_steps(differing)] if differing else []
    return Panel(Group(*parts), title=f"{title}  ({first})", title_align="left", padding=(1, 2))


def _record(record: Mapping[str, Any]) -> Panel:
    """What the audit log keeps of one request."""
    text = Text("one record ends every request; this is what the log keeps of bob's refused call\n", style="dim")
    lines = Text(json.dumps(record, indent=1, ensure_ascii=False))
    return Panel(Group(text, lines), title="The audit record", title_align="left", padding=(1, 2))


def _differing(first: Stage, other: Stage) -> Sequence[Step]:
    """The steps to be shown of another protocol: all where others were taken, else those that went wrong."""
    same = [step.did for step in first.steps] == [step.did for step in other.steps]
    return [step for step in other.steps if not step.right] if same else other.steps


def _steps(steps: Sequence[Step]) -> Iterator[RenderableType]:
    for step in steps:
        mark = ("✓ ", "green") if step.right else ("✗ ", "bold red")
        yield Text.assemble(mark, (step.did, "bold"))
        yield Padding(Text(step.saw), (0, 0, 1, 4))
