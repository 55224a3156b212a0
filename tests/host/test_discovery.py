from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mcp_macaroon_middleware.errors import Diagnostic
from mcp_macaroon_middleware.host.contributions import HOOKS
from mcp_macaroon_middleware.host.discovery import Discovery, DiscoveryOptions, PluginInfo, discover
from mcp_macaroon_middleware.plugin import KeySourceType, StoreType, Verdict, enforcer, policy_enforcer

HEAD = "from mcp_macaroon_middleware.plugin import *\nfrom mcp_macaroon_middleware.plugin import hookimpl, enforcer\n"


def found(*allow: str, **options: Any) -> Discovery:
    """Discovery that looks at the named distributions alone, whatever else is installed here."""
    return discover(DiscoveryOptions(allow=allow, **options))


def info(discovery: Discovery, name: str) -> PluginInfo:
    return next(plugin for plugin in discovery.plugins if plugin.name == name)


def errors(discovery: Discovery) -> list[Diagnostic]:
    return [problem for problem in discovery.problems if problem.severity == "error"]


HOURS = """
from mcp_macaroon_middleware.plugin import Check, Params, Verdict, enforcer

class Hours(Params):
    start: int
    end: int

@enforcer("{policy}", params=Hours)
def hours(check: Check[Hours]) -> Verdict:
    '''Only at certain hours.'''
    if check.params.start <= check.request.at.hour < check.params.end:
        return Verdict.allow()
    return check.refuse("outside_hours", "Not now.")
"""


def hours(site: Any, distribution: str, policy: str, **options: Any) -> str:
    """Installs a distribution with one enforcer; returns its module's name."""
    return str(site.distribution(distribution, HOURS.replace("{policy}", policy), **options))


def test_an_installed_distribution_provides_its_enforcer(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours", version="1.2.3")
    discovery = found("acme-hours")
    assert discovery.problems == ()
    plugin = info(discovery, "acme_hours")
    assert (plugin.distribution, plugin.version, plugin.module) == ("acme-hours", "1.2.3", "acme_hours")
    assert plugin.provides == ("enforcer acme_hours",)
    assert plugin.status == "loaded"
    enforcer = discovery.registry.enforcer("acme_hours")
    assert enforcer is not None
    assert enforcer.summary == "Only at certain hours."
    assert discovery.registry.enforcers["acme_hours"].plugin is plugin


def test_the_built_in_plugin_is_always_there(site: Any) -> None:
    discovery = found()
    plugin = info(discovery, "builtin")
    assert (plugin.distribution, plugin.status) == ("mcp-macaroon-middleware", "loaded")
    assert plugin.version


def test_the_built_in_plugin_cannot_be_left_out(site: Any) -> None:
    discovery = found(disable=("builtin",))
    assert info(discovery, "builtin").status == "loaded"
    assert [problem.code for problem in errors(discovery)] == ["plugin_builtin"]


def test_plugins_come_in_the_order_of_distribution_and_name(site: Any) -> None:
    entry = "[mcp_macaroon_middleware]\nzed = b_dist\nalpha = b_dist_more\n"
    site.module("b_dist_more", "")
    site.distribution("b-dist", "", entry=entry)
    hours(site, "a-dist", "a_hours")
    names = [plugin.name for plugin in found("b-dist", "a-dist").plugins]
    assert [name for name in names if name in ("a_dist", "alpha", "zed")] == ["a_dist", "alpha", "zed"]
    assert names[0] == "builtin"


@pytest.mark.threat("M06")
def test_with_allow_an_unnamed_distribution_is_not_imported_at_all(site: Any) -> None:
    module = hours(site, "acme-hours", "acme_hours")
    discovery = found("something-else")
    assert info(discovery, "acme_hours").status == "not allowed"
    assert not site.imported(module)
    assert discovery.registry.enforcer("acme_hours") is None


@pytest.mark.threat("M06")
def test_allow_goes_by_distribution_because_anybody_can_choose_a_plugin_name(site: Any) -> None:
    module = site.distribution("evil-thing", "raise SystemExit", plugin="schedule")
    discovery = found("schedule")
    assert info(discovery, "schedule").status == "not allowed" or "evil" not in info(discovery, "schedule").distribution
    assert not site.imported(module)
    assert "allow goes by distribution" in next(p.hint for p in discovery.problems if p.code == "plugin_unknown")


@pytest.mark.threat("M06")
def test_without_allow_every_installed_plugin_is_loaded_and_named_with_its_version(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours", version="9.8")
    plugin = info(discover(), "acme_hours")
    assert (plugin.status, plugin.distribution, plugin.version) == ("loaded", "acme-hours", "9.8")


@pytest.mark.parametrize("name", ["acme_hours", "acme-hours", "ACME.Hours"])
def test_disable_names_a_plugin_or_its_distribution_and_it_is_not_imported(site: Any, name: str) -> None:
    module = hours(site, "acme-hours", "acme_hours")
    discovery = found("acme-hours", disable=(name,))
    assert info(discovery, "acme_hours").status == "disabled"
    assert not site.imported(module)
    assert errors(discovery) == []


def test_a_name_under_disable_or_allow_that_nothing_bears_is_told(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours")
    discovery = found("acme-hours", "nonsense", disable=("acme_hour",))
    told = {problem.message: problem for problem in discovery.problems}
    assert any("plugins.allow names 'nonsense'" in message for message in told)
    near = next(problem for message, problem in told.items() if "plugins.disable" in message)
    assert near.hint == "did you mean 'acme_hours'?"
    assert near.severity == "warning"


FAILING = {
    "raises": ("raise ValueError('boom\\nsecond line')", "ValueError: boom"),
    "import error": ("import there_is_no_such_module", "No module named 'there_is_no_such_module'"),
    "syntax": ("def f(:\n", "SyntaxError"),
    "exits": ("raise SystemExit(0)", "SystemExit"),
    "base exception": ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "cancels": ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
    "unprintable": ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", "E"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "api version": ("MACAROON_API_VERSION = 99", "version 99 of the plugin contract"),
    "unknown hook": (HEAD + "@hookimpl\ndef macaroon_enforcer(): return []", "did you mean 'macaroon_enforcers'?"),
    "unknown hook, far": (HEAD + "@hookimpl\ndef xyz(): return []", "no hook named 'xyz'"),
    "hook arguments": (HEAD + "@hookimpl\ndef macaroon_enforcers(request): return []", "cannot be registered"),
    "hook raises": (HEAD + "@hookimpl\ndef macaroon_stores(): raise OSError('no')", "stores raised OSError: no"),
    "hook exits": (HEAD + "@hookimpl\ndef macaroon_enforcers(): raise SystemExit", "raised SystemExit"),
    "fails half-way": (HEAD + "@hookimpl\ndef macaroon_stores():\n    yield from ()\n    1 / 0", "ZeroDivisionError"),
    "hook returns None": (HEAD + "@hookimpl\ndef macaroon_enforcers(): return None", "returned NoneType"),
    "hook returns text": (HEAD + "@hookimpl\ndef macaroon_enforcers(): return 'x'", "returned str"),
    "hook is async": (HEAD + "@hookimpl\nasync def macaroon_enforcers(): return []", "is async"),
    "hook never ends": (HEAD + "@hookimpl\ndef macaroon_enforcers():\n    while True: yield 1", "more than 1000"),
    "wrong objects": (HEAD + "@hookimpl\ndef macaroon_enforcers(): return [1, 'x']", "yielded int, not EnforcerType"),
    "wrong kind": (
        HEAD + "@hookimpl\ndef macaroon_enforcers(): return [StoreType(scheme='x', open=print)]",
        "yielded StoreType, not EnforcerType",
    ),
    "wrapper": (HEAD + "@hookimpl(wrapper=True)\ndef macaroon_enforcers(): return (yield)", "wrappers are not offered"),
    "old wrapper": (HEAD + "@hookimpl(hookwrapper=True)\ndef macaroon_enforcers(): yield", "wrappers are not offered"),
    "no marker": (HEAD + "def macaroon_enforcers(): return []", "macaroon_enforcers lacks @hookimpl"),
    "name": (HEAD + "x = EnforcerType(name='a:b', check=print)", "cannot be the name of an enforcer"),
    "check": (HEAD + "x = EnforcerType(name='a', check=1)", "check cannot be called"),
    "params": (HEAD + "x = EnforcerType(name='a', check=print, params=dict)", "params is not a subclass of Params"),
    "rest": (
        HEAD + "class Q(Params):\n    rest = 'zz'\nx = EnforcerType(name='a', check=print, params=Q)",
        "no field named 'zz'",
    ),
    "actions": (HEAD + "x = EnforcerType(name='a', check=print, actions=['allow'])", "actions is not a set"),
    "no actions": (HEAD + "x = EnforcerType(name='a', check=print, actions=frozenset())", "actions is not a set"),
    "phases": (HEAD + "x = EnforcerType(name='a', check=print, phases=frozenset({'bf'}))", "phases is not a set"),
    "idle": (HEAD + "x = EnforcerType(name='a', check=print, idle=frozenset({Action.DENY}))", "idle is not a part"),
    "timeout": (HEAD + "x = EnforcerType(name='a', check=print, timeout=0)", "timeout is not a number"),
    "settings": (HEAD + "x = EnforcerType(name='a', check=print, settings=dict)", "settings is not a subclass"),
    "constant": (HEAD + "async def f(c): ...\nx = EnforcerType(name='a', check=f, constant=True)", "cannot be async"),
    "grants": (HEAD + "x = EnforcerType(name='a', check=print, grants=True)", "only tool_access grants"),
    "scheme": (HEAD + "x = StoreType(scheme='A B', open=print)", "cannot be the name of a store"),
    "store": (HEAD + "x = StoreType(scheme='a', open=None)", "open cannot be called"),
    "store timeout": (HEAD + "x = StoreType(scheme='a', open=print, timeout=-1)", "timeout is not a number"),
    "sink": (HEAD + "x = AuditSinkType(name='a', open=print, options=int)", "options is not a subclass"),
    "decorator name": (HEAD + "@enforcer('a b')\ndef f(check): ...", "cannot be a policy's name"),
    "decorator signature": (HEAD + "@enforcer('ab')\ndef f(check, more): ...", "takes one argument"),
}


@pytest.mark.threat("M07", "FI17", "FI18")
@pytest.mark.parametrize("case", FAILING, ids=lambda case: case.replace(" ", "-"))
def test_a_plugin_that_fails_is_an_error_in_one_line_and_the_others_still_load(site: Any, case: str) -> None:
    code, expected = FAILING[case]
    site.distribution("acme-bad", code, version="0.7")
    hours(site, "acme-good", "good_hours")
    discovery = found("acme-bad", "acme-good")
    plugin = info(discovery, "acme_bad")
    assert (plugin.status, plugin.provides) == ("failed", ())
    assert expected in plugin.why
    problem = errors(discovery)[0]
    assert problem.code == "plugin_failed"
    assert "\n" not in problem.message
    for part in ("acme-bad 0.7", "entry point acme_bad = acme_bad", expected):
        assert part in problem.message
    assert "disable: [acme_bad]" in problem.hint
    assert discovery.registry.enforcer("good_hours") is not None


MATRIX = {
    "raises": ("raise OSError('no')", "raised OSError: no"),
    "exits": ("raise SystemExit(0)", "raised SystemExit"),
    "cancels": ("import asyncio; raise asyncio.CancelledError", "raised CancelledError"),
    "fails half-way": ("yield from ()\n    1 / 0", "raised ZeroDivisionError"),
    "answers nothing": ("return None", "returned NoneType"),
    "answers a text": ("return 'x'", "returned str"),
    "answers later": ("async def f(): ...\n    return f()", "is async"),
    "answers in parts, later": ("async def f(): yield 1\n    return f()", "returned async_generator"),
    "yields rubbish": ("yield {}", "yielded dict, not"),
    "never ends": ("while True: yield None", "yields more than 1000"),
}


@pytest.mark.threat("FI17", "FI18", "M07")
@pytest.mark.parametrize("fault", MATRIX, ids=lambda fault: fault.replace(" ", "-"))
@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_that_fails_at_the_start_is_an_error_in_one_line(site: Any, hook: str, fault: str) -> None:
    body, expected = MATRIX[fault]
    site.distribution("acme-bad", HEAD + f"@hookimpl\ndef {hook}():\n    {body}\n", version="0.7")
    hours(site, "acme-good", "good_hours")
    discovery = found("acme-bad", "acme-good")
    (problem,) = errors(discovery)
    assert problem.code == "plugin_failed"
    assert f"{hook} {expected}" in problem.message
    assert "\n" not in problem.message
    assert "acme-bad 0.7" in problem.message
    assert (info(discovery, "acme_bad").status, info(discovery, "acme_bad").provides) == ("failed", ())
    assert discovery.registry.enforcer("good_hours") is not None


def test_ctrl_c_is_not_swallowed(site: Any) -> None:
    site.distribution("acme-bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        found("acme-bad")


def test_a_plugin_with_one_bad_contribution_contributes_nothing(site: Any) -> None:
    code = HOURS.replace("{policy}", "fine") + "\n" + HEAD + "x = EnforcerType(name='a', check=1)"
    site.distribution("acme-half", code)
    assert found("acme-half").registry.enforcer("fine") is None


@pytest.mark.threat("M05")
def test_two_distributions_with_one_policy_name_are_a_problem_that_names_both(site: Any) -> None:
    hours(site, "acme-one", "same", version="1.0")
    hours(site, "acme-two", "same", version="2.0")
    discovery = found("acme-one", "acme-two")
    (problem,) = errors(discovery)
    assert problem.code == "plugin_conflict"
    assert "acme-one 1.0" in problem.message
    assert "acme-two 2.0" in problem.message
    assert discovery.registry.enforcer("same") is None
    assert {info(discovery, "acme_one").status, info(discovery, "acme_two").status} == {"failed"}
    assert errors(found("acme-one", "acme-two", disable=("acme-one",))) == []


@pytest.mark.threat("M05", "M14")
def test_a_built_in_policy_cannot_be_overridden(site: Any) -> None:
    assert discover(DiscoveryOptions(allow=())).registry.enforcer("tool_access") is not None
    hours(site, "acme-evil", "tool_access")
    (problem,) = errors(found("acme-evil"))
    assert problem.code == "plugin_conflict"
    assert "mcp-macaroon-middleware" in problem.message
    assert "acme-evil" in problem.message


@pytest.mark.threat("M05")
def test_a_name_given_twice_in_one_plugin_names_both_places(site: Any) -> None:
    code = HOURS.replace("{policy}", "twice")
    site.distribution("acme-twice", code + code.replace("def hours(", "def other("))
    (problem,) = errors(found("acme-twice"))
    assert "acme_twice.hours" in problem.message
    assert "acme_twice.other" in problem.message


@pytest.mark.threat("M05")
def test_two_plugins_of_one_name_are_a_problem_and_neither_is_imported(site: Any) -> None:
    first = hours(site, "acme-one", "one", plugin="hours")
    second = hours(site, "acme-two", "two", plugin="hours")
    discovery = found("acme-one", "acme-two")
    assert all("acme-one 1.0 and acme-two 1.0" in problem.message for problem in errors(discovery))
    assert not site.imported(first)
    assert not site.imported(second)
    assert discovery.registry.enforcer("one") is None


@pytest.mark.parametrize("name", ["allow", "files", "builtin", "application", "1x", "a b"])
def test_a_plugin_cannot_take_a_name_that_means_something_else(site: Any, name: str) -> None:
    site.distribution("acme-odd", "", plugin=name)
    discovery = found("acme-odd")
    assert errors(discovery)
    assert not site.imported("acme_odd")


def test_an_object_that_is_both_in_the_module_and_yielded_counts_once(site: Any) -> None:
    code = HOURS.replace("{policy}", "once") + "\n" + HEAD + "@hookimpl\ndef macaroon_enforcers(): yield hours"
    site.distribution("acme-once", code)
    discovery = found("acme-once")
    assert errors(discovery) == []
    assert info(discovery, "acme_once").provides == ("enforcer once",)


def test_hooks_yield_stores_and_sinks(site: Any) -> None:
    code = HEAD + (
        "@hookimpl\ndef macaroon_stores(): yield StoreType(scheme='acme', open=print)\n"
        "@hookimpl(specname='macaroon_audit_sinks')\ndef sinks(): return [AuditSinkType(name='pager', open=print)]\n"
    )
    site.distribution("acme-more", code)
    discovery = found("acme-more")
    assert errors(discovery) == []
    assert discovery.registry.stores["acme"].contribution.scheme == "acme"
    assert discovery.registry.sinks["pager"].plugin.name == "acme_more"


def test_of_a_distribution_that_is_on_the_path_twice_only_the_first_counts(site: Any, tmp_path: Path) -> None:
    hours(site, "acme-hours", "acme_hours", version="2.0")
    other = type(site)(tmp_path / "later")
    hours(other, "acme-hours", "old_hours", version="1.0")
    sys.path.append(str(other.folder))
    try:
        discovery = found("acme-hours")
    finally:
        sys.path.remove(str(other.folder))
    assert errors(discovery) == []
    assert info(discovery, "acme_hours").version == "2.0"
    assert discovery.registry.enforcer("old_hours") is None


def test_an_entry_point_that_names_no_module_is_told(site: Any) -> None:
    site.distribution("acme-odd", "x = 1", entry="[mcp_macaroon_middleware]\nodd = acme_odd:x\n")
    assert "must name a module" in info(found("acme-odd"), "odd").why


def test_metadata_that_cannot_be_read_is_told_and_the_others_still_load(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours")
    broken = site.folder / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_text("[mcp_macaroon_middleware]\nbroken = broken\n")
    discovery = found("acme-hours")
    assert [problem.code for problem in errors(discovery)] == ["plugin_failed"]
    assert "broken-1.0.dist-info" in errors(discovery)[0].message
    assert discovery.registry.enforcer("acme_hours") is not None


@pytest.mark.threat("M07")
@pytest.mark.parametrize(("need", "fine"), [(">=99", False), (">=3.0.0a1", True), (">=99; extra == 'more'", True)])
def test_a_distribution_that_needs_another_version_of_us_is_not_imported(site: Any, need: str, fine: bool) -> None:
    module = site.distribution("acme-new", "", metadata=f"Requires-Dist: mcp-macaroon-middleware{need}\n")
    discovery = found("acme-new")
    assert (errors(discovery) == []) is fine
    assert site.imported(module) is fine
    if not fine:
        assert "it needs mcp-macaroon-middleware>=99" in info(discovery, "acme_new").why


def test_an_editable_installation_shows_its_folder(site: Any) -> None:
    site.distribution("acme-edit", "", editable="file:///somewhere/acme%20edit")
    assert info(found("acme-edit"), "acme_edit").editable_path == Path("/somewhere/acme edit")


def test_metadata_that_lies_about_where_it_comes_from_shows_no_folder(site: Any) -> None:
    for number, text in enumerate(("{", "[]", '{"dir_info": 3}', '{"dir_info": {"editable": true}}')):
        site.distribution(f"acme-odd{number}", "")
        (site.folder / f"acme_odd{number}-1.0.dist-info" / "direct_url.json").write_text(text)
    discovery = found(*(f"acme-odd{number}" for number in range(4)))
    assert errors(discovery) == []
    assert {info(discovery, f"acme_odd{number}").editable_path for number in range(4)} == {None}


def test_requirements_that_cannot_be_read_keep_a_plugin_out(site: Any) -> None:
    module = site.distribution("acme-odd", "", metadata="Requires-Dist: ???\n")
    assert "the metadata of acme-odd cannot be read" in errors(found("acme-odd"))[0].message
    assert not site.imported(module)


def test_the_built_in_plugin_is_there_even_where_nothing_is_installed(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib_metadata

    monkeypatch.setattr(importlib_metadata, "distributions", lambda: iter(()))  # as in a tree that is only on the path
    discovery = found()
    assert [plugin.name for plugin in discovery.plugins] == ["builtin"]
    assert discovery.registry.enforcer("tool_access") is not None


REQUIRES = {
    "acme-hours": None,
    "acme-hours>=1,<2": None,
    "ACME_hours==1.0": None,
    "acme-hours>=2": "acme-hours 1.0 is installed",
    "acme-missing>=1": "no plugin of acme-missing is installed",
    "acme-hours >= one": "is no requirement",
    "acme-hours @ https://example.org/x.whl": "not an address",
    "acme-missing; python_version < '3'": None,
    "mcp-macaroon-middleware>=3.0.0a1": None,
}


@pytest.mark.parametrize(("text", "expected"), REQUIRES.items(), ids=list(REQUIRES))
def test_require_says_what_is_missing_and_how_to_get_it(site: Any, text: str, expected: str | None) -> None:
    hours(site, "acme-hours", "acme_hours")
    problems = errors(found("acme-hours", require=(text,)))
    assert [problem.code for problem in problems] == ([] if expected is None else ["plugin_missing"])
    assert expected is None or expected in problems[0].message


def test_a_required_plugin_that_is_kept_out_is_told(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours")
    (problem,) = errors(found("acme-hours", require=("acme-hours",), disable=("acme_hours",)))
    assert "required, and disabled" in problem.message


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_loaded_as_a_plugin_even_where_nothing_installed_is_allowed(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HOURS.replace("{policy}", "mine_hours"))
    discovery = found(files=(path,))
    assert errors(discovery) == []
    plugin = info(discovery, "mine")
    assert (plugin.editable_path, plugin.provides) == (path, ("enforcer mine_hours",))
    again = found(files=(path, path))
    assert again.registry.enforcer("mine_hours") is discovery.registry.enforcer("mine_hours")


def test_functions_of_the_originals_decorator_in_a_file_belong_to_that_file(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + "@policy_enforcer('business_hours')\ndef f(caveat, context, **kwargs): return []\n")
    discovery = found(files=(path,))
    assert discovery.registry.enforcers["business_hours"].plugin.name == "mine"
    assert [plugin.name for plugin in discovery.plugins] == ["builtin", *_others(discovery), "mine"]


def _others(discovery: Discovery) -> list[str]:
    return [plugin.name for plugin in discovery.plugins if plugin.status == "not allowed"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.py", None, "there is no such file"),
        ("mine.txt", "", "not a Python file"),
        ("broken.py", "def", "SyntaxError"),
        ("wide.py", "", "everybody may write to it"),
        ("1st.py", "", "cannot be a plugin's name"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told(
    site: Any, tmp_path: Path, name: str, content: str | None, expected: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
        os.chmod(path, 0o666 if name == "wide.py" else 0o600)
    (problem,) = errors(found(files=(path,)))
    assert expected in problem.message
    assert name in problem.message


def test_a_file_that_was_mended_loads_without_a_restart(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def")
    assert errors(found(files=(path,)))
    path.write_text(HOURS.replace("{policy}", "mine_hours"))
    assert found(files=(path,)).registry.enforcer("mine_hours") is not None


# --- the application ------------------------------------------------------------------------------------------------


def test_the_applications_own_functions_are_found(site: Any) -> None:
    @policy_enforcer("our_own")
    def ours(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        return []

    discovery = found()
    assert info(discovery, "application").provides == ("enforcer our_own",)
    assert discovery.registry.enforcer("our_own") is not None


def test_the_application_can_give_contributions_functions_and_modules(site: Any) -> None:
    @enforcer("given")
    def given(check: Any) -> Verdict:
        return Verdict.allow()

    @policy_enforcer("our_own")
    def ours(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        return []

    module = ModuleType("app_module")
    module.store = StoreType(scheme="acme", open=print)  # type: ignore[attr-defined, arg-type]
    safe = KeySourceType(scheme="safe", fetch=lambda name, context: name)
    discovery = discover(DiscoveryOptions(allow=()), application=[given, ours, module, safe])
    assert errors(discovery) == []
    provides = ("enforcer our_own", "enforcer given", "store acme", "key source safe")
    assert info(discovery, "application").provides == provides


def test_what_is_no_contribution_is_told(site: Any) -> None:
    (problem,) = errors(discover(DiscoveryOptions(allow=()), application=[object()]))
    assert "object is no contribution" in problem.message


@pytest.mark.threat("M05")
def test_an_application_function_with_a_plugins_policy_name_is_a_problem_that_names_both(site: Any) -> None:
    hours(site, "acme-hours", "same")

    @policy_enforcer("same")
    def ours(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
        return []

    (problem,) = errors(found("acme-hours"))
    assert "acme-hours 1.0" in problem.message
    assert "application" in problem.message
    assert "test_discovery.py" in problem.message


@pytest.mark.threat("M05")
def test_two_application_functions_of_one_name_are_a_problem_that_names_both_places(site: Any) -> None:
    def make(twist: str) -> Any:
        def ours(caveat: Any, context: Any, **kwargs: Any) -> list[Any]:
            return []

        ours.__qualname__ = f"ours_{twist}"
        return policy_enforcer("same")(ours)

    make("one")
    make("two")
    (problem,) = errors(found())
    assert "ours_one" in problem.message
    assert "ours_two" in problem.message


def test_functions_in_the_package_of_a_disabled_plugin_stay_out(site: Any) -> None:
    code = HEAD + "@policy_enforcer('legacy')\ndef f(caveat, context, **kwargs): return []\n"
    site.distribution("acme-legacy", code)
    __import__("acme_legacy")
    discovery = found("acme-legacy", disable=("acme_legacy",))
    assert discovery.registry.enforcer("legacy") is None
    assert found("acme-legacy").registry.enforcers["legacy"].plugin.name == "acme_legacy"


def test_two_plugins_in_one_package_keep_their_own_functions(site: Any) -> None:
    code = HEAD + "@policy_enforcer('{name}')\ndef f(caveat, context, **kwargs): return []\n"
    for name in ("mail", "calendar"):
        site.module(f"acme.{name}", code.replace("{name}", name))
    entry = "[mcp_macaroon_middleware]\nmail = acme.mail\ncalendar = acme.calendar\n"
    site.distribution("acme-suite", entry=entry)
    discovery = found("acme-suite")
    assert errors(discovery) == []
    assert {name: discovery.registry.enforcers[name].plugin.name for name in ("mail", "calendar")} == {
        "mail": "mail",
        "calendar": "calendar",
    }


def test_suggestions_name_the_nearest_policy(site: Any) -> None:
    hours(site, "acme-hours", "acme_hours")
    registry = found("acme-hours").registry
    assert registry.suggest("acme_hour") == "acme_hours"
    assert registry.suggest("zzzzzz") is None


def test_passwords_in_addresses_do_not_reach_a_start_up_report(site: Any) -> None:
    site.distribution("acme-bad", "raise OSError('cannot reach redis://user:hunter2@host')")
    (problem,) = errors(found("acme-bad"))
    assert "hunter2" not in problem.message
