from __future__ import annotations

import posixpath
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_macaroon_arguments.normal import normal_path, parse_pattern, pattern_matches


def fits(pattern: str, path: str) -> bool:
    normal = normal_path(path)
    return normal is not None and pattern_matches(parse_pattern(pattern), normal)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("docs/*", "docs/a.md", True),
        ("docs/*", "docs/.hidden", True),
        ("docs/*", "docs", False),
        ("docs/*", "docs/", False),
        ("docs/*", "docs/a/b.md", False),
        ("docs/*", "DOCS/a.md", False),
        ("docs/*", "/docs/a.md", False),
        ("docs/*", "xdocs/a.md", False),
        ("*.md", "a.md", True),
        ("*.md", "docs/a.md", False),
        ("docs/**", "docs/a", True),
        ("docs/**", "docs/a/b/c", True),
        ("docs/**", "docs", False),
        ("docs/**", "docsx/a", False),
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("**/*.md", "x/y/a.txt", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b/**/c", "a/b/x/b/c", True),
        ("a/**/b", "a/b/x", False),
        ("**", "anything/at/all", True),
        ("**", "/etc/passwd", False),
        ("**", ".", False),
        (".", ".", True),
        ("/srv/docs/**", "/srv/docs/a", True),
        ("/srv/docs/**", "srv/docs/a", False),
        ("/srv/docs/**", "/srv/docs", False),
        ("/**", "/etc/passwd", True),
        ("./docs/*", "docs/a", True),
        ("docs/*", "docs/a/", True),
        ("/docs/*", "/docs/a/", True),
        (".//docs/./*", "docs/a", True),
        ("a*b/c", "axxb/c", True),
        ("a*b/c", "ax/xb/c", False),
        ("caf\u00e9/*", "cafe\u0301/x", True),
        ("docs/a [1].md", "docs/a [1].md", True),
    ],
)
def test_a_star_stops_at_a_slash_and_two_cross_it(pattern: str, path: str, expected: bool) -> None:
    assert fits(pattern, path) is expected


@pytest.mark.threat("E10")
@pytest.mark.parametrize(
    "path",
    [
        "docs/../secret",
        "../secret",
        "docs/..",
        "docs/../docs/a.md",
        "docs/.../a",
        "./docs/a",
        "docs/./a",
        "docs//a",
        "docs/a//",
        "docs/a/.",
        "./",
        "/./a",
        "//a",
        "docs%2f..%2fsecret",
        "%2e%2e/secret",
        "docs/%2E%2E/secret",
        "docs/%252e%252e/x",
        "docs/%u002e%u002e/x",
        "docs/%c0%ae%c0%ae/x",
        "docs\\..\\x",
        "docs\\x",
        "C:\\x",
        "C:/x",
        "c:x",
        "docs/a.md:stream",
        "docs/a.md::$DATA",
        "file:///etc/passwd",
        "//host/share",
        "~/x",
        "~root/x",
        "./~/x",
        "docs/a\x00.md",
        "docs/a\n",
        "docs/a.",
        "docs/a ",
        "docs./a",
        "docs /a",
        "docs/ a",
        " docs/a",
        "docs/a\t",
        "docs/\uff0e\uff0e/x",
        "docs/\u2025/x",
        "docs/\u2026/x",
        "docs\uff0fx",
        "docs\uff3cx",
        "docs/\u200b../x",
        "docs/\u202ex",
        "docs/\ufeffx",
        "docs/\ud800",
        "docs/*",
        "docs/?",
        "",
        " ",
        "x" * 5000,
    ],
    ids=ascii,
)
def test_a_path_that_could_mean_another_file_has_no_form_and_matches_nothing(path: str) -> None:
    assert normal_path(path) is None


ODD = ("docs/", "../x", "a/../b", "a\\b", "C:/x", "%2e", "a**b", "docs/**.md", "***", "~/x", "a/ b", "x.", "//x")


@pytest.mark.parametrize("pattern", ["", *ODD])
def test_a_pattern_that_could_match_nothing_or_mislead_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|path|stands alone"):
        parse_pattern(pattern)


SAID = ("docs", "a.md", "..", ".", "", "/", "//", "\\", "%2e", "%2e%2e", "\uff0e", "~", "C:", " ", "x ", "*")
PIECES = st.lists(st.sampled_from(SAID), max_size=8)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "**", "a*"]), min_size=1, max_size=6)


@pytest.mark.threat("E10")
@given(PIECES, st.sampled_from(["/", "", "//"]))
def test_whatever_matches_a_folder_lies_below_it(pieces: list[str], joint: str) -> None:
    path = joint.join(pieces)
    if fits("docs/**", path):
        real = posixpath.normpath(posixpath.join("/base", path))
        assert real.startswith("/base/docs/")


EDITS: Sequence[Callable[[str, int], str]] = (
    lambda path, at: path[:at] + path[at : at + 1].swapcase() + path[at + 1 :],
    lambda path, at: path[:at] + path[at:].replace("/", "//", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/./", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "/x/../", 1),
    lambda path, at: path[:at] + path[at:].replace("/", "\\", 1),
    lambda path, _: "./" + path,
    lambda path, _: "docs/../" + path,
    lambda path, _: path + "/",
    lambda path, _: path + "/.",
    lambda path, _: path + ".",
    lambda path, _: path + " ",
    lambda path, _: unicodedata.normalize("NFD", path),
    lambda path, _: unicodedata.normalize("NFC", path),
    lambda path, at: path[:at] + "\u200b" + path[at:],
    lambda path, at: path[:at] + f"%{ord(path[at : at + 1] or '/') % 256:02x}" + path[at + 1 :],
)


@pytest.mark.threat("E10", "R03")
@given(
    st.sampled_from(["docs/a.md", "docs/caf\u00e9/b.md", "/srv/docs/a.md", "a"]),
    st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 16)), min_size=1, max_size=4),
)
def test_what_pathlib_takes_for_one_path_has_one_form_or_none(
    path: str, changes: list[tuple[Callable[[str, int], str], int]]
) -> None:
    """A spelling matches what its file matches, or nothing: never a pattern that its file does not lie under."""
    spelled = path
    for change, at in changes:
        spelled = change(spelled, min(at, len(spelled)))
    form = normal_path(spelled)
    if form is None or unicodedata.normalize("NFC", spelled) != spelled:
        return
    assert PurePosixPath(*form) == PurePosixPath(posixpath.normpath(spelled))
    if PurePosixPath(posixpath.normpath(spelled)) == PurePosixPath(path):
        assert form == normal_path(path)


@given(PATTERNS, st.lists(st.sampled_from("ab"), max_size=7))
def test_matching_agrees_with_its_definition(pattern: list[str], path: list[str]) -> None:
    def defined(rest: list[str], left: list[str]) -> bool:
        if not rest:
            return not left
        if rest[0] == "**":
            return any(defined(rest[1:], left[index:]) for index in range(len(left) + 1))
        first = bool(left) and (rest[0] == "*" or left[0] == rest[0] or (rest[0] == "a*" and left[0] == "a"))
        return first and defined(rest[1:], left[1:])

    assert pattern_matches(pattern, path) is defined(pattern, path)


@pytest.mark.threat("E09")
def test_hostile_patterns_and_paths_take_no_time() -> None:
    pattern, path = parse_pattern("/".join(["**/*a*a*a*"] * 40) + "/b"), normal_path("/".join(["a" * 9] * 400))
    assert path is not None
    started = time.perf_counter()
    assert not pattern_matches(pattern, path)
    assert time.perf_counter() - started < 0.5
