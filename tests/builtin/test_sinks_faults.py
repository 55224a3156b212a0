"""What an audit file says after crashes, full disks and other hands; and that no log record is lost in silence."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin import jsonl_tail
from mcp_macaroon_middleware.builtin.jsonl_sink import KEPT, TYPE, JsonlOptions, JsonlSink
from mcp_macaroon_middleware.builtin.lines import line_of
from mcp_macaroon_middleware.builtin.log_sink import LogSink
from mcp_macaroon_middleware.errors import AuditUnavailable
from mcp_macaroon_middleware.plugin import SinkContext


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, *records: dict[str, Any], end: str = "") -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end, encoding="utf-8")


def intent(request: str, boot: str, **facts: Any) -> dict[str, Any]:
    return {"time": 1.0, "boot": boot, "seq": 1, "event": "intent", "request": request, **facts}


def final(request: str, boot: str, outcome: str = "ok") -> dict[str, Any]:
    return {"time": 2.0, "boot": boot, "seq": 2, "event": "final", "request": request, "outcome": outcome}


# --- after a crash --------------------------------------------------------------------------------------------------


@pytest.mark.threat("O05", "FI13")
def test_L6_only_what_the_last_start_left_open_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(
        path,
        intent("old", "b1"),
        final("old", "b1", "unknown"),
        *(record for n in range(2000) for record in (intent(f"r{n}", "b2"), final(f"r{n}", "b2"))),
        intent("x", "b2", principal={"subject": "alice"}),
        intent("y", "b2"),
        final("y", "b2"),
        intent("z", "b2"),
    )
    JsonlSink(path).close()
    unknown = [record for record in lines(path) if record.get("outcome") == "unknown"][1:]
    assert [record["request"] for record in unknown] == ["x", "z"]
    assert unknown[0]["principal"] == {"subject": "alice"}
    assert unknown[0]["time"] > 1_000_000
    assert "seq" not in unknown[0]
    JsonlSink(path).close()
    assert len([record for record in lines(path) if record.get("outcome") == "unknown"]) == 3


@pytest.mark.threat("O05")
def test_a_long_file_is_not_read_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    write(path, *(final(f"r{n}", "b1") for n in range(20_000)), intent("x", "b2"))
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(jsonl_tail.os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    JsonlSink(path).close()
    assert sum(read) <= 4 * jsonl_tail.BLOCK < path.stat().st_size
    assert lines(path)[-1]["outcome"] == "unknown"


@pytest.mark.threat("O05")
def test_nothing_of_a_half_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, final("a", "b"), end='{"event": "intent", "principal": "al\xe9')
    JsonlSink(path).close()
    first, cut = lines(path)
    assert (first["request"], cut["event"]) == ("a", "truncated")
    assert cut["line"] == '{"event": "intent", "principal": "al\xe9'
    path.write_bytes(b"\x00" * (KEPT * 3))
    JsonlSink(path).close()
    (cut,) = lines(path)
    assert (cut["event"], len(cut["line"])) == ("truncated", KEPT)


def test_a_record_that_only_lacks_its_newline_is_kept_as_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, end=json.dumps(intent("a", "b")))
    JsonlSink(path).close()
    assert [(record["event"], record["request"]) for record in lines(path)] == [("intent", "a"), ("final", "a")]


def test_lines_that_are_no_records_stay_and_disturb_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(
        path, intent("a", "b"), end='nonsense\n[1]\n\n{"event": "final", "request": ["odd"]}\n' + "[" * 100_000 + "\n"
    )
    JsonlSink(path).close()
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["outcome"] == "unknown"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 9))
def test_reading_backwards_finds_the_same_lines(pieces: list[bytes], block: int) -> None:
    content = b"\n".join(pieces)
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        file.write(content)
        file.flush()
        patch.setattr(jsonl_tail, "BLOCK", block)
        assert list(jsonl_tail._pieces(file.fileno(), len(content)))[::-1] == content.split(b"\n")
        assert jsonl_tail.half_line(file.fileno(), len(content)) == content.split(b"\n")[-1]


# --- a disk that is full, other hands -------------------------------------------------------------------------------


@pytest.mark.threat("FI11", "O01")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_without_room_refuses_every_record_clearly() -> None:
    sink = JsonlSink(Path("/dev/full"))
    for _ in range(3):
        with pytest.raises(AuditUnavailable, match="No space left"):
            sink.write({"event": "final"})
    sink.close()
    sink.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        sink.write({"event": "final"})


@pytest.mark.threat("FI11")
def test_a_line_is_taken_back_if_it_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path, sync=True)
    sink.write({"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(AuditUnavailable, match="Input/output"):
            sink.write({"n": 2})
    sink.write({"n": 3})
    assert lines(path) == [{"n": 1}, {"n": 3}]
    sink.close()


@pytest.mark.threat("FI11")
def test_a_half_line_that_cannot_be_taken_back_is_moved_at_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(AuditUnavailable):
            sink.write({"n": 1})
    sink.write({"n": 2})
    assert [record.get("event") or record["n"] for record in lines(path)] == ["truncated", 2]
    assert lines(path)[0]["line"] == '{"n":'
    sink.close()


@pytest.mark.threat("FI12", "O01")
def test_a_new_file_begins_with_the_digest_of_the_last_line_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    sink.write({"n": 1})
    path.rename(tmp_path / "rotated")
    sink.write({"n": 2})
    event, record = lines(path)
    last = (tmp_path / "rotated").read_bytes()
    assert (event["event"], event["previous"]) == ("replaced", "sha256:" + hashlib.sha256(last).hexdigest())
    assert record == {"n": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    sink.close()


@pytest.mark.threat("FI12")
def test_a_file_that_is_cut_or_opened_to_others_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    sink.write({"n": 1})
    os.truncate(path, 0)
    sink.write({"n": 2})
    path.chmod(0o644)
    sink.write({"n": 3})
    sink.write({"n": 4})
    assert [record.get("event", record.get("n")) for record in lines(path)] == ["replaced", 2, "permissions", 3, 4]
    assert "0600 to 0644" in lines(path)[2]["detail"]
    sink.close()


@pytest.mark.threat("FI12", "O01")
def test_a_place_that_went_away_refuses_and_works_again_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = JsonlSink(folder / "a.jsonl")
    sink.write({"n": 1})
    folder.rename(tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            sink.write({"n": 2})
    (tmp_path / "gone").rename(folder)
    sink.write({"n": 3})
    assert lines(folder / "a.jsonl") == [{"n": 1}, {"n": 3}]
    sink.close()


@pytest.mark.threat("O08")
def test_a_file_in_its_place_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    path.rename(tmp_path / "old")
    other = JsonlSink(path)
    with pytest.raises(AuditUnavailable, match="another process"):
        sink.write({"n": 1})
    other.close()
    sink.write({"n": 2})
    assert lines(path)[-1] == {"n": 2}
    sink.close()


@pytest.mark.threat("FI11", "O11")
def test_threads_that_fail_and_write_at_once_leave_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path)
    real, written, lock = os.write, [], threading.Lock()

    def sometimes(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2] if b'"bad"' in data else data)

    monkeypatch.setattr(os, "write", sometimes)

    def run(thread: int) -> None:
        for n in range(100):
            record = {"thread": thread, "n": n, "kind": "bad" if n % 3 == 0 else "good", "x": "x" * (n % 50)}
            try:
                sink.write(record)
            except AuditUnavailable:
                continue
            with lock:
                written.append((thread, n))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert sorted((record["thread"], record["n"]) for record in lines(path)) == sorted(written)
    assert len(written) == 6 * 66


def test_the_path_begins_at_the_policy_file(tmp_path: Path) -> None:
    sink = TYPE.open(JsonlOptions(path="a.jsonl", sync=True), SinkContext(audience="x", base=tmp_path))
    sink.write({"event": "final"})
    sink.close()
    assert lines(tmp_path / "a.jsonl") == [{"event": "final"}]


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.threat("E07", "O12")
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.floats() | st.none(), max_size=4))
def test_a_record_is_one_printable_line_and_json_whatever_is_in_it(record: dict[str, Any]) -> None:
    text = line_of(record).decode()
    assert text.isascii()
    assert text.isprintable()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read.keys() == record.keys()
    assert all(read[key] == value for key, value in record.items() if not isinstance(value, float))


def test_half_a_surrogate_pair_is_escaped_and_what_is_no_data_is_refused() -> None:
    assert json.loads(line_of({"a": "\ud800"})) == {"a": "\ud800"}
    with pytest.raises(AuditUnavailable):
        line_of({"a": object()})


# --- the log sink ---------------------------------------------------------------------------------------------------


@pytest.mark.threat("O11")
def test_without_any_handler_records_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("alone")
    LogSink(logger).write({"event": "final", "n": 1})
    assert json.loads(capsys.readouterr().err) == {"event": "final", "n": 1}


@pytest.mark.threat("O01", "O11")
def test_a_logger_that_leaves_records_out_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = LogSink(logging.Logger("quiet", logging.WARNING))
    with pytest.raises(AuditUnavailable, match="at INFO"):
        sink.write({"event": "final"})
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(AuditUnavailable, match="standard error"):
        LogSink(logging.Logger("alone")).write({"event": "final"})


def test_the_record_is_in_extra_for_handlers_that_want_data() -> None:
    kept: list[logging.LogRecord] = []
    logger = logging.Logger("kept")
    handler = logging.Handler()
    handler.emit = kept.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    LogSink(logger).write({"event": "final", "n": 1})
    assert kept[0].audit == {"event": "final", "n": 1}  # type: ignore[attr-defined]
    assert kept[0].levelno == logging.INFO
