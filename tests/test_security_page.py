"""The security page's table agrees with the tests. `python tests/test_security_page.py` writes it anew.

A line counts as tested by tests that run: one that is taken out, left out for good, expected to fail, written as a
comment, or has nothing to run with does not count. Tests that are left out on some systems do: the gate's conftest sees
to it that they run there.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"^\| ([A-Z]+\d+) \| (.+?) \| (tested|open) \|$", re.MULTILINE)
ID = re.compile(r"[A-R]\d+|FI\d+")
LAWS = {f"L{number}" for number in range(1, 8)}
IDLE = ("skip", "xfail")

Test = ast.FunctionDef | ast.AsyncFunctionDef


# --- the ids that tests bear ----------------------------------------------------------------------------------------


def marked(root: Path = ROOT) -> set[str]:
    """Every id that a test bears, and runs for."""
    found: set[str] = set()
    for folder in ("tests", "plugins"):
        for path in sorted((root / folder).rglob("test_*.py")):
            if "node_modules" not in path.parts:
                found.update(borne(path.read_text(encoding="utf-8")))
    return found


def borne(source: str) -> set[str]:
    """The ids that the tests of one module bear."""
    tree = ast.parse(source)
    general = [mark for node in tree.body if isinstance(node, ast.Assign) for mark in _module_marks(node)]
    found: set[str] = set()
    if not any(map(_idles, general)):
        for marks in _tests(tree.body, general):
            found.update(name for mark in marks for name in _ids(mark))
    return found


def _tests(body: list[ast.stmt], outer: list[ast.expr]) -> Iterator[list[ast.expr]]:
    """The marks of every test that runs, with those of what it stands in."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inner = [mark for each in node.body if isinstance(each, ast.Assign) for mark in _module_marks(each)]
            yield from _tests(node.body, [*outer, *node.decorator_list, *inner])
        elif isinstance(node, Test) and node.name.startswith("test_"):
            marks = [*outer, *node.decorator_list]
            if not any(map(_idles, marks)) and not _leaves_at_once(node):
                yield marks


def _module_marks(node: ast.Assign) -> list[ast.expr]:
    """The marks of `pytestmark = …`."""
    if [target.id for target in node.targets if isinstance(target, ast.Name)] != ["pytestmark"]:
        return []
    return list(node.value.elts) if isinstance(node.value, ast.List | ast.Tuple) else [node.value]


def _name(mark: ast.expr) -> str:
    """What a mark is called: `threat` for `pytest.mark.threat(…)`."""
    function = mark.func if isinstance(mark, ast.Call) else mark
    return function.attr if isinstance(function, ast.Attribute) else ""


def _idles(mark: ast.expr) -> bool:
    """Whether what bears this mark never runs, or may fail."""
    if _name(mark) == "parametrize" and isinstance(mark, ast.Call) and len(mark.args) > 1:
        return isinstance(mark.args[1], ast.List | ast.Tuple) and not mark.args[1].elts
    always = isinstance(mark, ast.Call) and mark.args[:1] and isinstance(mark.args[0], ast.Constant)
    return _name(mark) in IDLE or (_name(mark) == "skipif" and bool(always))


def _leaves_at_once(test: Test) -> bool:
    """Whether all that a test does is to leave, or nothing."""
    body = [node for node in test.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    first = body[0] if body else ast.Pass()
    called = first.value if isinstance(first, ast.Expr) else None
    leaves = isinstance(called, ast.Call) and _name(called) in IDLE
    return leaves or isinstance(first, ast.Pass | ast.Return)


def _ids(mark: ast.expr) -> Iterator[str]:
    if _name(mark) == "threat" and isinstance(mark, ast.Call):
        for argument in mark.args:
            if isinstance(argument, ast.Constant) and ID.fullmatch(str(argument.value)):
                yield str(argument.value)


# --- the page -------------------------------------------------------------------------------------------------------


def rows(text: str | None = None) -> dict[str, str]:
    """The page's lines: id and status."""
    text = PAGE.read_text(encoding="utf-8") if text is None else text
    return {name: status for name, _, status in ROW.findall(text)}


def wrong(there: set[str], lines: dict[str, str]) -> set[str]:
    """The lines whose status is not what the tests say."""
    return {name for name, status in lines.items() if (status == "tested") != (name in there)}


def test_every_line_that_is_called_tested_has_a_test_and_every_other_is_open() -> None:
    page = rows()
    assert wrong(marked(), page) == set(), (
        "the page is out of date; write it anew with: python tests/test_security_page.py"
    )


def test_every_id_that_a_test_bears_stands_on_the_page() -> None:
    assert marked() - LAWS <= set(rows())


def test_the_page_has_every_line() -> None:
    assert len(rows()) > 190


# --- the page would notice ------------------------------------------------------------------------------------------

RUNS = '@pytest.mark.threat("A01", "FI17")\n{more}def test_it() -> None:\n    {body}\n'
NOTICED = {
    "it is taken out": "",
    "it is a comment": "".join(f"# {line}\n" for line in RUNS.format(more="", body="assert 1").splitlines()),
    "it stands in a text": f"OLD = '''{RUNS.format(more='', body='assert 1')}'''\n",
    "it is no test": RUNS.format(more="", body="assert 1").replace("test_it", "check_it"),
    "it is skipped": RUNS.format(more="@pytest.mark.skip\n", body="assert 1"),
    "it is skipped for a reason": RUNS.format(more='@pytest.mark.skip(reason="flaky")\n', body="assert 1"),
    "it is always skipped": RUNS.format(more='@pytest.mark.skipif(True, reason="flaky")\n', body="assert 1"),
    "it may fail": RUNS.format(more="@pytest.mark.xfail\n", body="assert 1"),
    "it has nothing to run with": RUNS.format(more='@pytest.mark.parametrize("x", [])\n', body="assert 1"),
    "it leaves at once": RUNS.format(more="", body='pytest.skip("later")'),
    "it does nothing": RUNS.format(more="", body="pass"),
    "it only says what it would do": RUNS.format(more="", body='"""One day."""'),
    "its module is skipped": "pytestmark = pytest.mark.skip\n" + RUNS.format(more="", body="assert 1"),
    "its class is skipped": "@pytest.mark.skip\nclass TestAll:\n"
    + "".join(f"    {line}\n" for line in RUNS.format(more="", body="assert 1").splitlines()),
}


@pytest.mark.parametrize("what", NOTICED)
def test_the_page_notices_where_the_only_test_of_a_line_does_not_run_since(what: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    module = tmp_path / "tests" / "test_one.py"
    module.write_text("import pytest\n" + RUNS.format(more="", body="assert 1"), encoding="utf-8")
    page = {"A01": "tested", "FI17": "tested", "B01": "open"}
    assert marked(tmp_path) == {"A01", "FI17"}
    assert wrong(marked(tmp_path), page) == set()
    module.write_text("import pytest\n" + NOTICED[what], encoding="utf-8")
    assert wrong(marked(tmp_path), page) == {"A01", "FI17"}


@pytest.mark.parametrize(
    "more",
    [
        '@pytest.mark.skipif(not BINARIES, reason="needs Redis")\n',
        '@pytest.mark.parametrize("x", [1])\n',
        "@decorated\n",
    ],
)
def test_a_line_counts_as_tested_by_a_test_that_runs_wherever_the_gate_does(more: str) -> None:
    assert borne(RUNS.format(more=more, body="assert 1")) == {"A01", "FI17"}
    assert borne('pytestmark = [pytest.mark.threat("B01"), other]\ndef test_it() -> None:\n    assert 1\n') == {"B01"}
    assert borne('@pytest.mark.threat("B01")\nclass TestAll:\n    def test_it(self) -> None:\n        assert 1\n') == {
        "B01"
    }


def write() -> None:
    """Sets every line's status by the tests."""
    there = marked()
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        ROW.sub(lambda row: f"| {row[1]} | {row[2]} | {'tested' if row[1] in there else 'open'} |", text),
        encoding="utf-8",
    )


if __name__ == "__main__":
    write()
    sys.exit(0)
