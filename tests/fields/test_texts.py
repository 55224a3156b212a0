"""What a text is: data, prose, or unclear; and that what stays of it is, letter for letter, what came."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.errors import ResultWithheld
from mcp_macaroon_middleware.fields import redact, redact_text
from mcp_macaroon_middleware.model import Redaction

SECRET = "S3CRET"
ROW = json.dumps({"a": 1, "ssn": SECRET})
UNCLEAR = {
    "trailing comma": '{"a": 1, "ssn": "S3CRET",}',
    "cut off": '{"a": 1, "ssn": "S3CRET"',
    "cut off in the value": '{"a": 1, "ssn": "S3CR',
    "note behind": ROW + "\n(1 row)",
    "comment": '{"a": 1, /* c */ "ssn": "S3CRET"}',
    "comment first": '{// c\n"ssn": "S3CRET"}',
    "python": repr(json.loads(ROW)),
    "single quotes": "{'ssn': 'S3CRET'}",
    "two with a comma": f"{ROW},{ROW}",
    "bad escape": '{"a": "C:\\x", "ssn": "S3CRET"}',
    "prefix": f"Result: {ROW}",
    "events": f"data: {ROW}\n\ndata: {ROW}\n",
    "fence": f"```json\n{ROW}\n```",
    "against hijacking": f")]}}',\n{ROW}",
    "callback": f"cb({ROW});",
    "zero width in front": "\u200b" + ROW,
    "soft hyphen in front": "\u00ad\u2060" + ROW,
    "scalar in front": f"1\n{ROW} x",
    "bare keys": "{a: 1, ssn: S3CRET}",
    "bare keys behind words": "Row 7 {a: 1, ssn: S3CRET}",
    "ruby": "{:a=>1, :ssn=>'S3CRET'}",
    "go": "map[a:1 ssn:S3CRET]",
    "dataclass": "Row(a=1, ssn='S3CRET')",
    "php": "array('ssn' => 'S3CRET')",
    "curly quotes": "{\u201cssn\u201d: \u201cS3CRET\u201d}",
    "xml": "<row><ssn>S3CRET</ssn></row>",
    "attribute": '<row a="1" ssn="S3CRET"/>',
    "yaml": "a: 1\nssn: S3CRET\n",
    "yaml list": "- a: 1\n  ssn: S3CRET\n- a: 2\n",
    "ini": "[row]\na=1\nssn=S3CRET\n",
    "csv": "a,ssn\n1,S3CRET\n",
    "tabs": "a\tssn\n1\tS3CRET\n",
    "table": "| a | ssn |\n|---|---|\n| 1 | S3CRET |",
    "query": "a=1&ssn=S3CRET",
    "address": "https://x/?a=1&ssn=S3CRET",
    "nested query": "row[a]=1&row[ssn]=S3CRET",
    "words": 'a=1 ssn="S3CRET" b=2',
    "base64": base64.b64encode(ROW.encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(ROW.encode()).decode().rstrip("="),
    "token": f"eyJhIjoxfQ.{base64.urlsafe_b64encode(ROW.encode()).decode().rstrip('=')}.c2ln",
    "percent": quote(ROW),
    "quoted, cut off": json.dumps(ROW)[:-1],
    "escaped key, cut off": '{"a": 1, "s\\u0073n": "S3CRET"',
    "html": ROW.replace('"', "&quot;") + " x",
}
PROSE = [
    "the ssn of this person is on file",
    "ssn: ask her",
    "[INFO] started",
    "[1] first, [2] second",
    "{name}, hello",
    "{",
    "a = b",
    "2026-12-01, noon",
    '"Yes", she said',
    "Dear all,\nthis is a letter.\nYours",
]


@pytest.mark.threat("R10", "G05", "G12")
@pytest.mark.parametrize("text", UNCLEAR.values(), ids=UNCLEAR)
@pytest.mark.parametrize("path", ["**.ssn", "log.ssn", "(?i)**.SSN", "*.ssn"])
def test_B5_a_text_that_may_be_data_and_does_not_read_to_its_end_is_withheld(text: str, path: str) -> None:
    """reports-policy B5: what the next reader takes for data was passed as prose."""
    assert redact({"log": text, "id": 1}, Redaction(withhold=(path,))) == ({"id": 1}, True)


@pytest.mark.threat("R10")
@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": "cu', "\u200b{'a': 1}", "[1, 2", '[{"a": 1},', "{a: 1}", "Row(a=1)", "[true, fal"]
)
def test_L2_what_begins_like_data_and_does_not_end_is_withheld_whatever_it_names(text: str) -> None:
    assert redact({"log": text, "id": 1}, Redaction(withhold=("**.ssn",))) == ({"id": 1}, True)


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_one_field_and_stays(text: str) -> None:
    assert redact({"log": text}, Redaction(withhold=("**.ssn",))) == ({"log": text}, False)


@pytest.mark.parametrize("text", UNCLEAR.values(), ids=UNCLEAR)
def test_where_no_path_leads_every_text_stays(text: str) -> None:
    document = {"log": text, "other": {"ssn": 1}}
    assert redact(document, Redaction(withhold=("other.ssn",)))[0] == {"log": text, "other": {}}


# --- what stays is what came ------------------------------------------------------------------------------------------

NUMBERS = ["12345678901234567.89", "1.10", "1E5", "-0", "1e400", "0.1234567890123456789012", "9007199254740993", "1e-7"]
spellings = st.one_of(
    st.sampled_from([*NUMBERS, "true", "null", '"\\u0041\\/\\ud83d"', '"\u00e9\u200b"', '""', "[ 1 ,2 ]", "{ }"]),
    st.text(max_size=5).map(json.dumps),
    st.integers().map(str),
)
blanks = st.sampled_from(["", " ", "\n  ", "\t"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.booleans(), spellings, blanks), min_size=1, max_size=6), st.booleans())
@pytest.mark.threat("R11")
def test_B6_what_is_not_withheld_keeps_digits_escapes_order_and_blanks(
    members: list[tuple[bool, str, str]], in_list: bool
) -> None:
    """reports-policy B6: numbers beside a withheld field were written anew. The text is cut by hand here."""
    parts = [
        f'{blank}"{"ssn" if hidden else f"k{number}"}"{blank}:{blank}{value}'
        for number, (hidden, value, blank) in enumerate(members)
    ]
    hidden = [number for number, member in enumerate(members) if member[0]]
    if len(hidden) > 1:
        return  # a repeated key has a test of its own
    text = "{" + ",".join(parts) + "}"
    text = f"[{text}, 1.50, {text}]" if in_list else text
    left, changed = redact_text(text, Redaction(withhold=("ssn",)))
    assert left is not None
    assert changed == bool(hidden)
    kept = [part for number, part in enumerate(parts) if number not in hidden]
    if not hidden:
        assert left == text
    for part in kept:
        assert part.strip() in left
    numbers = {"parse_float": str, "parse_int": str}
    whole = json.loads(text, object_pairs_hook=lambda pairs: [pair for pair in pairs if pair[0] != "ssn"], **numbers)  # type: ignore[call-overload]
    assert json.loads(left, object_pairs_hook=list, **numbers) == whole  # type: ignore[call-overload]


@pytest.mark.threat("R11")
def test_F8_half_a_surrogate_pair_does_not_cost_the_result() -> None:
    """reports-mcp F8: a cut emoji in JSON, beside a withheld field, withheld the whole result."""
    text = '{"cut":"tool \\ud83d","note":"S3CRET","n":1}'
    assert redact_text(text, Redaction(withhold=("note",)))[0] == '{"cut":"tool \\ud83d","n":1}'
    inside: Any = redact({"log": text}, Redaction(withhold=("**.note",)))[0]
    assert inside == {"log": '{"cut":"tool \\ud83d","n":1}'}
    json.dumps(inside, ensure_ascii=False).encode()


def test_scalars_of_a_list_stay_beside_its_objects() -> None:
    assert redact([1, "x", {"ssn": 1}, None], Redaction(withhold=("ssn",)))[0] == [1, "x", {}, None]
    assert redact_text('[1.0, "x", {"ssn": 1}]', Redaction(withhold=("ssn",)))[0] == '[1.0, "x", {}]'


def test_a_text_of_which_everything_is_withheld_is_none() -> None:
    assert redact_text('{"a": 1}', Redaction(keep=(("b",),))) == ("{}", True)
    with pytest.raises(ResultWithheld):
        redact({"a": 1}, Redaction(everything=True))


@pytest.mark.threat("P01", "P08")
@pytest.mark.parametrize(
    "part",
    [
        "a=b,",
        "a=b ",
        "<a ",
        "{",
        "[",
        "(",
        "{a ",
        " ",
        "- ",
        "a: ",
        '"',
        "'",
        "\\",
        "&",
        "%41",
        "A",
        "\u200b",
        "a,b\n",
        "=",
        "a: b\n",
    ],
)
def test_L2_no_text_takes_long_to_be_told_from_data(part: str) -> None:
    """Counted, not timed: pytest's own timeout ends what does not come back."""
    text = part * (200_000 // len(part)) + '\x01"'
    document = {"log": text, "id": 1}
    with suppress(ResultWithheld):  # some are nested too deep
        assert "id" in redact(document, Redaction(withhold=("**.ssn", "(?i)**.b", "x.*")))[0]
