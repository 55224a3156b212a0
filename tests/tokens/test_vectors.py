"""The published macaroon vectors against the codec, the wall and the signature chain."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.errors import TokenInvalid
from mcp_macaroon_middleware.tokens.macaroons import (
    MAX_BYTES,
    PREFIX,
    RawCaveat,
    RawMacaroon,
    check_signature,
    decode,
    encode,
    from_text,
    sign,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "macaroons" / "macaroons.json").read_text(encoding="utf-8")
)


def raw(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text.rstrip("=")) % 4))


def chain(key: str, identifier: str, caveats: list[str]) -> str:
    """The signature by the paper's definition, in plain HMAC: what every implementation must come to."""
    derived = hmac.digest(b"macaroons-key-generator", key.encode(), hashlib.sha256)
    signature = hmac.digest(derived, identifier.encode(), hashlib.sha256)
    for caveat in caveats:
        signature = hmac.digest(signature, caveat.encode(), hashlib.sha256)
    return signature.hex()


BINARY_V2 = [vector for vector in VECTORS["verify"] if vector["format"] == "v2"]
OTHERS = [vector for vector in VECTORS["verify"] if vector["format"] != "v2"]


@pytest.mark.parametrize("vector", BINARY_V2, ids=lambda vector: vector["id"])
def test_binary_v2_decodes_and_encodes_to_the_same_bytes(vector: Any) -> None:
    data = raw(vector["tokens"][0])
    macaroon = decode(data)
    assert encode(macaroon) == data
    assert macaroon.location == b"http://example.org/"
    assert macaroon.identifier == b"keyid"


@pytest.mark.parametrize("vector", BINARY_V2, ids=lambda vector: vector["id"])
def test_the_chain_holds_under_its_key_and_no_other(vector: Any) -> None:
    macaroon = decode(raw(vector["tokens"][0]))
    if vector["key"] == "this is the key":
        check_signature(vector["key"].encode(), macaroon)
    else:
        with pytest.raises(TokenInvalid) as caught:
            check_signature(vector["key"].encode(), macaroon)
        assert caught.value.code == "token_signature"


@pytest.mark.parametrize("vector", VECTORS["serialize"], ids=lambda vector: vector["id"])
def test_signing_gives_the_published_bytes(vector: Any) -> None:
    macaroon = sign(
        vector["key"].encode(),
        location=vector["location"],
        identifier=vector["identifier"].encode(),
        caveats=vector["caveats"],
    )
    assert encode(macaroon) == raw(vector["tokens"]["v2"])


@pytest.mark.parametrize("vector", VECTORS["signature"], ids=lambda vector: vector["id"])
def test_signing_gives_the_published_signature(vector: Any) -> None:
    macaroon = sign(
        vector["key"].encode(),
        location=vector["location"],
        identifier=vector["identifier"].encode(),
        caveats=vector["caveats"],
    )
    assert macaroon.signature.hex() == vector["signature"]
    assert chain(vector["key"], vector["identifier"], vector["caveats"]) == vector["signature"]


@pytest.mark.threat("A07", "A08")
@pytest.mark.parametrize("vector", OTHERS, ids=lambda vector: f"{vector['id']}-{vector['format']}")
def test_v1_and_json_are_refused_labelled_or_not(vector: Any) -> None:
    for text in vector["tokens"]:
        for spelling in (text, PREFIX + text):
            with pytest.raises(TokenInvalid):
                from_text(spelling)
    if vector["format"] == "v1":
        data = raw(vector["tokens"][0])
        for labelled in (data, b"\x02" + data, b"\x01" + data):
            with pytest.raises(TokenInvalid):
                decode(labelled)


@pytest.mark.threat("A08")
@pytest.mark.parametrize("vector", VECTORS["decode_error"], ids=lambda vector: vector["id"])
def test_what_others_refuse_to_decode_is_refused(vector: Any) -> None:
    for text in (vector["token"], PREFIX + vector["token"]):
        with pytest.raises(TokenInvalid):
            from_text(text)


@pytest.mark.parametrize("vector", VECTORS["decode_ok"], ids=lambda vector: vector["id"])
def test_what_others_decode_is_decoded_only_if_it_is_binary_v2(vector: Any) -> None:
    if vector["format"] != "v2":
        with pytest.raises(TokenInvalid):
            from_text(PREFIX + vector["token"])
        return
    data = raw(vector["token"])
    macaroon = decode(data)
    assert encode(macaroon) == data
    assert macaroon.signature.hex() == vector["expect"]["signature"]
    assert macaroon.location == vector["expect"]["location"].encode()
    assert macaroon.identifier.hex().startswith(vector["expect"]["identifier_hex_prefix"])


@pytest.mark.threat("A08")
@pytest.mark.parametrize("vector", VECTORS["packet_v2"] + VECTORS["section_v2"], ids=lambda vector: vector["id"])
def test_loose_packets_and_sections_are_no_macaroon(vector: Any) -> None:
    for data in (bytes.fromhex(vector["hex"]), b"\x02" + bytes.fromhex(vector["hex"])):
        with pytest.raises(TokenInvalid):
            decode(data)


@pytest.mark.threat("A05")
@pytest.mark.parametrize("vector", VECTORS["base64"], ids=lambda vector: vector["input"])
def test_no_lenient_base64_is_accepted(vector: Any) -> None:
    with pytest.raises(TokenInvalid):
        from_text(PREFIX + vector["input"])


@pytest.mark.parametrize("vector", VECTORS["varint"], ids=lambda vector: str(vector["n"]))
def test_lengths_are_written_as_published_and_refused_past_the_limit(vector: Any) -> None:
    size, written = vector["n"], bytes(vector["bytes"])
    end = b"\x00\x00\x06\x20" + b"s" * 32
    if size > MAX_BYTES:
        with pytest.raises(TokenInvalid):
            decode(b"\x02\x02" + written + b"x" * 100 + end)
        return
    data = b"\x02\x02" + written + b"x" * size + end
    macaroon = RawMacaroon(location=None, identifier=b"x" * size, caveats=(), signature=b"s" * 32)
    assert decode(data) == macaroon
    assert encode(macaroon) == data


@pytest.mark.threat("B03")
@pytest.mark.parametrize("vector", VECTORS["third_party"], ids=lambda vector: vector["id"])
def test_a_published_third_partys_caveat_is_carried_unchanged_and_refused(vector: Any) -> None:
    vid = raw(vector.get("vid", VECTORS["third_party"][0]["vid"]))
    before = tuple(RawCaveat(identifier=text.encode()) for text in vector["before"])
    ticket = RawCaveat(identifier=vector["cav_id"].encode(), vid=vid, location=vector["cav_location"].encode())
    macaroon = RawMacaroon(
        location=vector["location"].encode(),
        identifier=vector["identifier"].encode(),
        caveats=(*before, ticket),
        signature=bytes.fromhex(vector["signature"]),
    )
    assert decode(encode(macaroon)) == macaroon
    with pytest.raises(TokenInvalid) as caught:
        check_signature(vector["key"].encode(), macaroon)
    assert caught.value.code == "discharge_missing"


@pytest.mark.threat("A07", "A08")
@pytest.mark.parametrize(
    "vector", VECTORS["json_version"] + VECTORS["packet_v1"] + VECTORS["superfly"] + VECTORS["bakery_cid"]
)
def test_what_is_of_another_format_is_refused_labelled_or_not(vector: Any) -> None:
    texts = [vector[name] for name in ("token", "data", "cid", "base", "result") if name in vector]
    assert texts
    for text in texts:
        for spelling in (text, PREFIX + text, PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")):
            with pytest.raises(TokenInvalid):
                from_text(spelling)
        for data in (text.encode(), b"\x02" + text.encode()):
            with pytest.raises(TokenInvalid):
                decode(data)


def test_every_section_of_the_vectors_is_used() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in VECTORS if f'VECTORS["{name}"]' not in text} == {"about"}


def test_every_source_of_the_vectors_stands_in_the_origin_with_a_licence() -> None:
    page = (Path(__file__).parents[1] / "data" / "macaroons" / "ORIGIN.md").read_text(encoding="utf-8")
    named = re.findall(r'"source": "([^"]+)"', json.dumps(VECTORS))
    projects = {
        project for text in named for project in re.findall(r"(?:^|; )([\w.-]+/[\w.-]+) (?:[0-9a-f]{7}|issue)", text)
    }
    assert len(projects) == 12
    rows = dict(re.findall(r"^\| (\S+/\S+) \|.*\| (\S+) \|$", page, re.MULTILINE))
    assert projects == set(rows)


@pytest.mark.threat("B03", "B04", "B06", "A14")
@pytest.mark.parametrize("vector", VECTORS["semantics"], ids=lambda vector: f"{vector['about']}")
def test_a_third_partys_caveat_without_its_discharge_is_refused(vector: Any) -> None:
    """Discharges come later; until then a token that needs one is refused, whatever stands beside it."""
    from pymacaroons import MACAROON_V2, Macaroon

    root = vector["macaroons"][0]
    macaroon = Macaroon(location="x", identifier=root["id"], key=root["key"], version=MACAROON_V2)
    needs = False
    for caveat in root["caveats"]:
        if "location" in caveat:
            needs = True
            macaroon.add_third_party_caveat(caveat["location"], caveat["key"].ljust(32, "x")[:32], caveat["cond"])
        else:
            macaroon.add_first_party_caveat(caveat["cond"])
    decoded = decode(base64.urlsafe_b64decode(macaroon.serialize() + "=="))
    if not needs:
        check_signature(root["key"].encode(), decoded)
        return
    with pytest.raises(TokenInvalid) as caught:
        check_signature(root["key"].encode(), decoded)
    assert caught.value.code == "discharge_missing"
