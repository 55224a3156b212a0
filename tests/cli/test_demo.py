"""Each scene of the demo is a test, in both protocol eras."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcp_macaroon_middleware.cli.demo import demo
from mcp_macaroon_middleware.cli.demo import tokens as traveling
from mcp_macaroon_middleware.cli.demo import world as setting
from mcp_macaroon_middleware.cli.demo.asking import ASKING
from mcp_macaroon_middleware.cli.demo.scenes import SCENES
from mcp_macaroon_middleware.cli.demo.stage import Scene, played
from mcp_macaroon_middleware.cli.demo.tokens import TOKENS
from mcp_macaroon_middleware.cli.demo.world import POLICIES, world
from mcp_macaroon_middleware.config.compile import compile_file
from mcp_macaroon_middleware.errors import TokenInvalid

GUIDE = (Path(__file__).parents[2] / "docs" / "approvals.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("era", [None, "legacy"], ids=["modern", "legacy"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_the_scene_goes_as_it_should(scene: Scene, era: str | None) -> None:
    async with world(era) as stage_world:
        stage = await played(scene, stage_world)
    assert [step for step in stage.steps if not step.right] == []
    assert stage.steps


@pytest.mark.parametrize("era", [None, "legacy"], ids=["modern", "legacy"])
@pytest.mark.parametrize("scene", ASKING, ids=lambda scene: scene.name)
async def test_a_scene_with_a_person_fails_where_nobody_is_asked(
    scene: Scene, era: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "POLICIES", POLICIES.replace("elicit", "allow"))
    async with world(era) as stage_world:
        stage = await played(scene, stage_world)
    assert not stage.right


def test_a_scene_that_goes_otherwise_is_said_and_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting, "POLICIES", POLICIES.replace("elicit", "allow"))
    assert demo(only=("once",)) == 1
    assert "went otherwise: once (2026-07-28), once (2025-11-25)" in " ".join(capsys.readouterr().out.split())


def test_a_screen_shows_the_rule_and_the_question_whole_and_no_colours_where_none_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert demo(only=("once",)) == 0
    seen = capsys.readouterr().out
    assert 'to: "carol@example.org"' in seen
    assert '- "bf:forward_mail:tool_access:elicit"' in seen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", seen)


@pytest.mark.parametrize("name", ["once", "field"])
async def test_the_guide_to_approvals_prints_what_a_person_sees(name: str) -> None:
    (scene,) = [scene for scene in ASKING if scene.name == name]
    async with world() as stage_world:
        stage = await played(scene, stage_world)
    text = re.sub(r"\d\d:\d\d:\d\d", "16:20:00", stage.steps[0].saw)
    assert f"```text\n{text.replace('•', ' ')}\n```" in GUIDE


def test_every_policy_file_in_the_guide_to_approvals_loads_without_a_warning(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert examples
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example if "config:" in example else f"config: {{default: deny}}\n{example}")
        path.chmod(0o600)
        assert [each.render() for each in compile_file(path).diagnostics] == []


def test_an_unknown_scene_is_said_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(only=("nonsense",)) == 2
    assert "demo --list" in capsys.readouterr().err


def test_it_begins_with_three_scenes_their_rules_and_one_audit_record(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo() == 0
    seen = capsys.readouterr().out
    assert seen.count("Protocol 2025-11-25") == 3
    assert seen.count("policies:") == 3
    assert seen.count("The audit record") == 1
    assert '"outcome": "denied"' in seen
    assert "--all" in seen


def test_every_scene_about_rules_names_lines_that_stand_in_the_policy_file() -> None:
    for scene in SCENES:
        assert bool(scene.lines(POLICIES)) == bool(scene.rules), scene.name


def test_the_scenes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(list_scenes=True) == 0
    listed = capsys.readouterr().out
    assert all(scene.name in listed for scene in SCENES)


@pytest.mark.parametrize("era", [None, "legacy"], ids=["modern", "legacy"])
@pytest.mark.parametrize("fault", ["not revoked", "another refusal", "down"])
async def test_the_scene_with_tokens_fails_where_they_are_not_refused_for_being_revoked(
    fault: str, era: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(era) as stage_world:

        async def otherwise(*_: object) -> None:
            if fault == "down":
                raise OSError("the store is gone")
            if fault == "another refusal":
                bearers = stage_world.guard.runtime.bearers
                monkeypatch.setattr(type(bearers), "accept", refusing)

        async def refusing(*_: object) -> None:
            raise TokenInvalid("token_expired")

        monkeypatch.setattr(traveling, "revoke", otherwise)
        stage = await played(TOKENS[0], stage_world)
    wrong = [step.did for step in stage.steps if not step.right]
    assert wrong == (["the scene broke off"] if fault == "down" else [step.did for step in stage.steps[-4:]])


@pytest.mark.parametrize("era", [None, "legacy"], ids=["modern", "legacy"])
async def test_the_scene_with_tokens_ends_with_a_401_for_both_here_and_anew(era: str | None) -> None:
    async with world(era) as stage_world:
        stage = await played(TOKENS[0], stage_world)
    assert [step.saw for step in stage.steps[-4:]] == ["refused: 401, token_revoked"] * 4


async def test_a_token_in_the_operators_own_shell_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACAROON_TOKEN", "mm_somebody's")
    async with world() as stage_world:
        stage = await played(TOKENS[0], stage_world)
    assert stage.right
