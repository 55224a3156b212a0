"""Each scene of the demo is a test, in both protocol eras."""

from __future__ import annotations

import pytest

from mcp_macaroon_middleware.cli.demo import demo
from mcp_macaroon_middleware.cli.demo.scenes import SCENES
from mcp_macaroon_middleware.cli.demo.stage import Scene, Stage
from mcp_macaroon_middleware.cli.demo.world import world


@pytest.mark.parametrize("era", [None, "legacy"], ids=["modern", "legacy"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_the_scene_goes_as_it_should(scene: Scene, era: str | None) -> None:
    async with world(era) as stage_world:
        stage = Stage(stage_world)
        await scene.play(stage)
    assert [step for step in stage.steps if not step.right] == []
    assert stage.steps


def test_an_unknown_scene_is_said_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(only=("nonsense",)) == 2
    assert "demo --list" in capsys.readouterr().err


def test_the_scenes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(list_scenes=True) == 0
    listed = capsys.readouterr().out
    assert all(scene.name in listed for scene in SCENES)
