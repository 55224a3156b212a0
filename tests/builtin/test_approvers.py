"""The `mcp` and `auto` approvers, and how all of them are described."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mcp_macaroon_middleware import builtin
from mcp_macaroon_middleware.builtin import auto_approver, mcp_approver
from mcp_macaroon_middleware.builtin.auto_approver import AutoApprover, AutoSettings
from mcp_macaroon_middleware.plugin import Answer, ApproverContext, Assurance, PluginError, Reply
from mcp_macaroon_middleware.testing import sample_challenges


def test_each_approver_says_how_sure_it_is_that_a_person_answered() -> None:
    kinds = {kind.name: (kind.in_band, kind.assurance, kind.most) for kind in builtin.macaroon_approvers()}
    assert kinds == {
        "mcp": (True, Assurance.CLIENT, 8_000),
        "console": (False, Assurance.OPERATOR, 100_000),
        "auto": (False, Assurance.NONE, 100_000),
    }


# --- mcp --------------------------------------------------------------------------------------------------------------


async def test_before_the_call_a_form_has_one_choice() -> None:
    challenge = sample_challenges()["before"]
    form = (await mcp_approver.McpApprover().ask(challenge)).form
    assert form.message == challenge.message
    assert [(field.name, field.default) for field in form.fields] == [("choice", "deny")]
    assert [option.name for option in form.fields[0].options] == ["deny", "once", "period"]


async def test_after_the_call_a_form_has_one_choice_a_question_under_its_text() -> None:
    challenge = sample_challenges()["after"]
    fields = (await mcp_approver.McpApprover().ask(challenge)).form.fields
    assert [field.name for field in fields] == ["choice_1", "choice_2", "choice_3"]
    assert [field.title for field in fields] == [question.text for question in challenge.questions]


def test_further_content_of_a_reply_means_nothing() -> None:
    challenge = sample_challenges()["before"]
    content = {"choice": "deny", "choice_1": "once", "approved": True, "confirm": "yes"}
    answer = mcp_approver.McpApprover().read(challenge, Reply(action="accept", content=content))
    assert answer == Answer.chosen("deny")


def test_an_action_that_nobody_knows_cancels() -> None:
    reply: Any = SimpleNamespace(action="approve", content={"choice": "once"})
    assert mcp_approver.McpApprover().read(sample_challenges()["before"], reply) == Answer(ending="cancelled")


def test_the_mcp_approver_opens_anywhere() -> None:
    opened = mcp_approver.TYPE.open(ApproverContext(audience="a"))
    assert (repr(opened), opened.available()) == ("McpApprover()", True)


# --- auto -------------------------------------------------------------------------------------------------------------


async def test_auto_answers_the_same_to_everything_and_deny_where_that_is_not_offered() -> None:
    samples = sample_challenges()
    assert await AutoApprover("period").ask(samples["before"]) == Answer.chosen("period")
    assert await AutoApprover("period").ask(samples["once_only"]) == Answer.chosen("deny")
    assert await AutoApprover("period").ask(samples["after"]) == Answer.chosen("period", "deny", "period")


@pytest.mark.parametrize("settings", [None, AutoSettings(), AutoSettings(answer="once"), AutoSettings(testing=False)])
def test_auto_refuses_to_serve_for_real(settings: AutoSettings | None) -> None:
    with pytest.raises(PluginError, match="asks nobody"):
        auto_approver.TYPE.open(ApproverContext(audience="a", settings=settings))


@pytest.mark.parametrize("mode", ["", "Shadow", "test", "ENFORCE"])
def test_auto_refuses_every_mode_but_shadow(mode: str) -> None:
    with pytest.raises(PluginError, match="mode: shadow"):
        auto_approver.TYPE.open(ApproverContext(audience="a", mode=mode))


async def test_auto_opens_in_shadow_mode_and_for_tests() -> None:
    challenge = sample_challenges()["before"]
    shadow = auto_approver.TYPE.open(ApproverContext(audience="a", mode="shadow"))
    assert await shadow.ask(challenge) == Answer.chosen("deny")
    settings = AutoSettings(answer="once", testing=True)
    testing = auto_approver.TYPE.open(ApproverContext(audience="a", settings=settings))
    assert await testing.ask(challenge) == Answer.chosen("once")
    assert (repr(testing), testing.available()) == ("AutoApprover('once')", True)


@pytest.mark.parametrize("wrong", [{"answer": "always"}, {"answer": None}, {"tests": True}])
def test_auto_has_no_other_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        AutoSettings.model_validate(wrong)
