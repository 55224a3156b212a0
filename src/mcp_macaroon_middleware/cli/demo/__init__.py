"""`mcp-macaroon demo`: a guarded server, real clients, one screen a scene; exits non-zero if one went otherwise."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
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

    for noisy in ("fastmcp", "mcp", "mcp_macaroon_middleware"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # refusals are what is shown here, not news
    console = Console()
    if list_scenes:
        for scene in SCENES:
            console.print(f"{scene.name:10} {scene.title}", highlight=False)
        return 0
    unknown = sorted(set(only) - {scene.name for scene in SCENES})
    if unknown:
        print(f"no scene named {', '.join(unknown)}; try: mcp-macaroon demo --list", file=sys.stderr)
        return 2
    return asyncio.run(_play(console, only))


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
    from .stage import Stage
    from .world import world

    async with world(era) as stage_world:
        stage = Stage(stage_world)
        await scene.play(stage)
    return stage


def _screen(title: str, text: str, stages: Mapping[str, Stage]) -> Panel:
    """One scene: what was seen in the first protocol, and whatever went otherwise in another."""
    first, *others = stages
    body = Text(f"{text}\n", style="dim")
    _steps(body, stages[first].steps)
    for protocol in others:
        wrong = [step for step in stages[protocol].steps if not step.right]
        body.append(f"\nProtocol {protocol}: " + ("otherwise\n" if wrong else "the same\n"), style="dim")
        _steps(body, wrong)
    return Panel(body, title=f"{title}  ({first})", title_align="left", padding=(1, 2))


def _steps(body: Text, steps: Sequence[Step]) -> None:
    for step in steps:
        body.append("\n✓ " if step.right else "\n✗ ", style="green" if step.right else "bold red")
        body.append(f"{step.did}\n", style="bold")
        body.append(indent(f"{step.saw}\n", "    "))
