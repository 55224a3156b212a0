"""The reader of YAML: strict, bounded, and exact about places."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.config import source as module
from mcp_macaroon_middleware.config.source import parse_source, read_source, source_of
from mcp_macaroon_middleware.errors import ConfigError, Diagnostic

AMBIGUOUS = [
    "no",
    "No",
    "NO",
    "yes",
    "on",
    "off",
    "On",
    "OFF",
    "y",
    "N",
    "010",
    "-010",
    "0x1F",
    "0b11",
    "0o17",
    "1_000",
    "12:30",
    "5:00",
    "1:2:3",
    "190:20:30.15",
    "2020-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "1e3",
    "1.",
    ".5",
    ".inf",
    "-.INF",
    ".nan",
    "1.5e3",
    "12345678901234567890",
    "=",
]


def faults(text: str) -> list[Diagnostic]:
    """Everything that is wrong with a text, whether its reading stopped or not."""
    try:
        return list(parse_source(text, file="p.yaml").problems)
    except ConfigError as error:
        return list(error.diagnostics)


def codes(text: str) -> list[str]:
    return [fault.code for fault in faults(text)]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.threat("L01")
def test_a_duplicate_key_is_an_error_that_names_both_lines() -> None:
    (fault,) = faults("policies: []\nconfig:\n  default: deny\n  default: allow\n")
    assert (fault.code, fault.line, fault.column) == ("duplicate_key", 4, 3)
    assert "line 3" in fault.message


@pytest.mark.threat("L01")
@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "a: 1\n'a': 2", 'a: 1\n"\\x61": 2', "x:\n - {b: 1, c: 2, b: 3}"])
def test_every_spelling_of_a_duplicate_key_is_found(text: str) -> None:
    assert codes(text) == ["duplicate_key"]


@pytest.mark.threat("L02")
def test_an_alias_bomb_is_refused_before_it_is_walked() -> None:
    text = bomb(9)
    started = time.perf_counter()
    assert codes(text) == ["alias_limit"]
    assert len(text) < 600
    assert time.perf_counter() - started < 1


@pytest.mark.threat("L02")
@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a [[[*a]]]", "&a [*a]"])
def test_a_cyclic_alias_is_an_error(text: str) -> None:
    assert codes(text) == ["cyclic_alias"]


@pytest.mark.threat("L02")
def test_aliases_may_not_nest_deeper_than_the_limit() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [[[[[[[[[[*a{n - 1}]]]]]]]]]]" for n in range(1, 15)]
    assert codes("\n".join(lines)) == ["too_deep"]


def test_an_alias_within_the_limits_stands_for_its_value() -> None:
    source = parse_source("a: &x [1, {b: c}]\nd: *x\n")
    assert source.data == {"a": [1, {"b": "c"}], "d": [1, {"b": "c"}]}
    assert not source.problems
    assert source.diagnostic("x", "x", ("d",)).line == 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
@pytest.mark.parametrize("count", [101, 100_000])
def test_depth_is_bounded_without_recursion(opening: str, count: int) -> None:
    found = codes(opening * count)
    assert len(found) == 1
    assert found[0] in ("too_deep", "yaml_syntax")


@pytest.mark.threat("L02", "L07")
@pytest.mark.parametrize("line", ["a: 1\n", "- no\n", "- !x y\n", "- {a: 1, a: 2}\n", "  - x\n", "- &a x\n"])
def test_a_large_file_full_of_faults_is_refused_in_linear_time(line: str) -> None:
    started = time.perf_counter()
    assert len(codes(line * (200_000 // len(line)))) <= module.MAX_FAULTS + 1
    assert time.perf_counter() - started < 10


@pytest.mark.threat("L05")
@pytest.mark.parametrize("value", AMBIGUOUS)
def test_a_scalar_that_yaml_versions_read_differently_must_be_quoted(value: str) -> None:
    (fault,) = faults(f"a: {value}")
    assert (fault.code, fault.line, fault.column, fault.length) == ("ambiguous_scalar", 1, 4, len(value))
    assert "quotes" in fault.hint
    assert parse_source(f"a: '{value}'").data == {"a": value}
    assert not parse_source(f'a: "{value}"').problems


@pytest.mark.threat("L05")
@pytest.mark.parametrize("key", ["no", "on", "5:00", "010", "1", "true", "null", "~", "1.5"])
def test_a_key_that_is_no_text_must_be_quoted(key: str) -> None:
    assert set(codes(f"{{{key} : x}}")) <= {"ambiguous_scalar", "key_not_text"}
    assert codes(f"{{{key} : x}}")
    assert parse_source(f"{{'{key}': x}}").data == {key: "x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("1.5", 1.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'10'", "10"),
        ("10.0.0.1", "10.0.0.1"),
        ("1.2.3", "1.2.3"),
        ("nope", "nope"),
        ("10/minute", "10/minute"),
        ("bf:a:tool_access:deny", "bf:a:tool_access:deny"),
        ("[]", []),
        ("{}", {}),
    ],
)
def test_an_unambiguous_scalar_means_what_both_versions_say(text: str, value: Any) -> None:
    source = parse_source(f"a: {text}")
    assert source.data == {"a": value}
    assert type(source.data["a"]) is type(value)
    assert not source.problems


@pytest.mark.threat("L06")
@pytest.mark.parametrize(
    "text",
    ["a: !!python/object/apply:os.system [ls]", "a: !!str 1", "a: ! x", "a: !mine {b: c}", "!!map {a: 1}", "!x a: 1"],
)
def test_tags_are_refused_and_build_nothing(text: str) -> None:
    assert "tag" in codes(text)


@pytest.mark.threat("L14")
@pytest.mark.parametrize("text", ["a: &a {x: 1}\nb: {<<: *a}", "b: {<<: {x: 1}}", "b:\n  <<: [1]"])
def test_merge_keys_are_refused(text: str) -> None:
    assert codes(text) == ["merge_key"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: 1\n---\nb: 2", "second_document"),
        ("%YAML 1.1\n---\na: 1", "directive"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directive"),
        ("? [a]\n: b", "key_not_text"),
        ("a: &k x\n*k : b", "key_not_text"),
        ("# nothing", "file_empty"),
        ("---\n...\n", None),
        ('a: "\\0"', "control_character"),
        ('a: "\\x1b[31m"', "control_character"),
        ('"a\\n": 1', "control_character"),
        ("a: \x00", "control_character"),
        ("a: x\u202ey", "control_character"),
        ("# \u202e comment\na: 1", "control_character"),
        ("a: [1", "yaml_syntax"),
        ("a: 'x", "yaml_syntax"),
        ("\ta: 1", "yaml_syntax"),
        ("a: @x", "yaml_syntax"),
    ],
)
def test_what_no_policy_file_needs_is_an_error(text: str, code: str | None) -> None:
    assert codes(text) == ([code] if code else [])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('policies:\n - "bf:a\\:b:tool_access:deny"', "single quotes"),
        ("policies:\n - before: *", "quotes"),
        ("policies:\n - before: *_delete", "quotes"),
        ("policies:\n\t- x", "spaces"),
        ("policies:\n - bf:a: b: c", "quotes"),
    ],
)
def test_a_syntax_error_says_what_to_write(text: str, hint: str) -> None:
    assert hint in faults(text)[-1].hint


def test_places_count_characters_and_lines_of_every_newline() -> None:
    source = parse_source("é: ü\r\nb:\n  - 'ä': [x, \"yé\", zz]\n")
    assert source.spot(("é",)) == module.Spot(line=1, column=4, length=1, end_line=1)
    spot = source.spot(("b", 0, "ä", 2))
    assert spot is not None
    assert (spot.line, spot.column, spot.length) == (3, 20, 2)
    key = source.spot(("b", 0, "ä"), key=True)
    assert key is not None
    assert (key.line, key.column, key.length) == (3, 5, 3)


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_diagnostic_points_into_a_one_line_scalar(quote: str) -> None:
    source = parse_source(f"policies:\n  - {quote}bf:a:b:c{quote}\n")
    found = source.diagnostic("x", "x", ("policies", 0), offset=5, length=1)
    assert found.source_line[found.column - 1] == "b"


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (" 'a''b:x'", False),
        (' "a\\u0062:x"', False),
        (" 'ab:x''y'", True),
        (" >-\n    ab:x", False),
    ],
)
def test_a_diagnostic_points_at_the_start_where_the_line_spells_the_value_with_escapes(text: str, exact: bool) -> None:
    source = parse_source(f"policies:\n  -{text}\n")
    value = source.data["policies"][0]
    found = source.diagnostic("x", "x", ("policies", 0), offset=value.index("x"), length=1)
    if exact:
        assert found.source_line[found.column - 1] == "x"
    else:
        assert found.column == 5


def test_the_alternative_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x [1, 'b', \"c\", d: {}]\ne: *x\nf: |\n  g\n  h\nk: no\n"
    fast = parse_source(text)
    monkeypatch.setattr(module, "_PARSER", module.yaml.SafeLoader)
    slow = parse_source(text)
    assert slow.data == fast.data
    assert [p.code for p in slow.problems] == [p.code for p in fast.problems] == ["ambiguous_scalar"]
    for path in [("a",), ("a", 1), ("a", 3, "d"), ("e",), ("k",)]:
        first, second = slow.spot(path), fast.spot(path)
        assert first is not None
        assert second is not None
        assert (first.line, first.column, first.inner) == (second.line, second.column, second.inner)


# --- secrets stay out of what is shown --------------------------------------------------------------------------------

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"config:\n  secret_key: {SECRET}\n  secret_key: {SECRET}\n",
        f"config: {{secret_key: {SECRET}, default: no}}\n",
        f"config:\n  secret_key: |\n    {SECRET}\n    {SECRET}\n  default: no\n",
        f"config:\n  secret_key: '{SECRET}\n",
        f"config:\n  secret_key: *{SECRET}\n",
        f"config:\n  secret_key: !!{SECRET} x\n",
        f'config:\n  secret_key: "{SECRET}\\q"\n',
        f"config:\n  store: redis://:{SECRET}@host\n  store: redis://:{SECRET}@host\n",
        f"plugins:\n  x: {{api_token: {SECRET}, on: no}}\n",
        f"config: {{secret_key: {SECRET}, b: [}}\npolicies: []\n",
        f"policies:\n - x\nconfig:\n - {SECRET}: no: no\n",
        f"config: {{secert: {SECRET}, default: no}}\n",
        f"config: {{default: no, secert: {SECRET}}}\n",
        f"config:\n  store: '{SECRET}/x'\n  store: a\n",
    ],
)
def test_L7_a_line_that_may_hold_a_secret_is_never_shown(text: str) -> None:
    found = faults(text)
    assert found
    assert SECRET not in "\n".join(fault.render() for fault in found)


def test_what_follows_an_unknown_key_is_not_shown() -> None:
    source = parse_source(f"config:\n  secert: {SECRET}\n")
    shown = source.diagnostic("unknown_key", "unknown key", ("config", "secert"), key=True).render()
    assert "secert: …" in shown
    assert SECRET not in shown


# --- files ------------------------------------------------------------------------------------------------------------


def file_code(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_source(path)
    (fault,) = caught.value.diagnostics
    assert str(path) in fault.render()
    return fault.code


@pytest.mark.threat("L07", "FI20")
def test_a_file_that_cannot_be_trusted_or_read_is_named(tmp_path: Path) -> None:
    def written(name: str, data: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    assert file_code(tmp_path / "absent.yaml") == "file_missing"
    assert file_code(tmp_path) == "file_is_directory"
    assert file_code(written("empty.yaml", b"")) == "file_empty"
    assert file_code(written("blank.yaml", b" \n\n")) == "file_empty"
    assert file_code(written("latin.yaml", b"a: \xfc")) == "file_not_utf8"
    assert file_code(written("wide.yaml", "a: 1".encode("utf-16"))) == "file_not_utf8"
    assert file_code(written("large.yaml", b"#" * (1 << 20) + b"\n")) == "file_too_large"
    if os.name == "posix":
        assert file_code(written("open.yaml", b"a: 1", 0o666)) == "file_world_writable"
        os.mkfifo(tmp_path / "pipe", 0o600)
        assert file_code(tmp_path / "pipe") == "file_not_regular"


@pytest.mark.threat("L07")
def test_a_sparse_file_of_100_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    started = time.perf_counter()
    assert file_code(path) == "file_too_large"
    assert time.perf_counter() - started < 2


@pytest.mark.skipif(os.name != "posix", reason="links and sockets of POSIX")
@pytest.mark.threat("L07")
def test_a_link_to_a_regular_file_is_fine_and_other_links_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real.yaml"
    real.write_text("a: 1")
    real.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    assert read_source(link).data == {"a": 1}
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert file_code(tmp_path / "dangling") == "file_missing"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert file_code(tmp_path / "loop") == "file_unreadable"
    (tmp_path / "folder").symlink_to(tmp_path)
    assert file_code(tmp_path / "folder") == "file_is_directory"
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("s")
        assert file_code(tmp_path / "s") == "file_unreadable"


def test_a_byte_order_mark_is_dropped_and_columns_stay_true(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: no\n")
    source = read_source(path)
    assert source.data == {"a": "no"}
    assert source.problems[0].column == 4


# --- mappings ---------------------------------------------------------------------------------------------------------


def test_a_mapping_is_copied_and_must_be_plain_data() -> None:
    given_data: dict[str, Any] = {"config": {"default": "deny"}, "policies": ("a",)}
    source = source_of(given_data)
    given_data["config"]["default"] = "allow"
    assert source.data == {"config": {"default": "deny"}, "policies": ["a"]}
    with pytest.raises(ConfigError, match=r"config\.x: set is not plain data"):
        source_of({"config": {"x": {1, 2}}})
    with pytest.raises(ConfigError, match="a key is a text, not int"):
        source_of({"a": {1: 2}})


def test_a_mapping_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match="levels deep"):
        source_of(loop)


# --- any text at all --------------------------------------------------------------------------------------------------

YAMLISH = st.text(
    alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`#?,<=~ \n\t\r01.\\_\u00e9\u2028\x00\U0001f600"), max_size=80
)


@settings(max_examples=400, deadline=2000)
@given(YAMLISH | st.text(max_size=60))
def test_L2_no_text_makes_the_reader_raise_anything_but_config_error(text: str) -> None:
    for fault in faults(text):
        assert fault.line >= 1
        assert fault.column >= 1
        fault.render()


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=60))
def test_L2_no_bytes_make_the_reader_raise_anything_but_config_error(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    path.chmod(0o600)
    with contextlib.suppress(ConfigError):
        read_source(path)
