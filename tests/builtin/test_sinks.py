"""Audit sinks under faults: crashes, full disks, replaced files, second writers."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_macaroon_middleware.builtin.jsonl_sink import JsonlSink
from mcp_macaroon_middleware.builtin.jsonl_tail import record_of
from mcp_macaroon_middleware.builtin.log_sink import LOGGER, LogSink
from mcp_macaroon_middleware.errors import AuditUnavailable


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full at `size` bytes: writes past it fail with EFBIG."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.threat("FI13", "O05")
def test_L6_after_a_crash_open_intents_are_closed_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = f"""
        import os, signal
        from mcp_macaroon_middleware.builtin.jsonl_sink import JsonlSink
        from pathlib import Path
        sink = JsonlSink(Path({str(path)!r}))
        sink.write({{"event": "intent", "request": "a", "seq": 1}})
        sink.write({{"event": "final", "request": "a", "seq": 2, "outcome": "ok"}})
        sink.write({{"event": "intent", "request": "b", "seq": 3, "principal": "alice"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    JsonlSink(path).close()
    finals = [record for record in lines(path) if record["event"] == "final"]
    assert [(record["request"], record["outcome"]) for record in finals] == [("a", "ok"), ("b", "unknown")]
    assert finals[-1]["principal"] == "alice"
    JsonlSink(path).close()
    assert len([record for record in lines(path) if record["event"] == "final"]) == 2


@pytest.mark.threat("O05")
def test_a_line_that_a_crash_cut_is_closed_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"event":"intent","request":"a"}\n{"event":"final","req', encoding="utf-8")
    JsonlSink(path).close()
    events = [(record["event"], record.get("outcome")) for record in lines(path)]
    assert events == [("intent", None), ("truncated", None), ("final", "unknown")]


@pytest.mark.threat("O08")
def test_a_second_process_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    script = f"""
        from mcp_macaroon_middleware.builtin.jsonl_sink import JsonlSink
        from pathlib import Path
        JsonlSink(Path({str(path)!r}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a file of its own" in done.stderr
    sink.close()


@pytest.mark.threat("FI11", "O01")
def test_a_full_disk_leaves_no_half_line_and_heals(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    sink.write({"event": "final", "n": 1})
    with file_size_limit(60), pytest.raises(AuditUnavailable):
        sink.write({"event": "final", "n": 2, "long": "x" * 200})
    sink.write({"event": "final", "n": 3})
    assert [record["n"] for record in lines(path)] == [1, 3]
    sink.close()


@pytest.mark.threat("FI12", "O01")
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_is_taken_away_is_begun_anew_and_says_so(tmp_path: Path, how: str) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    sink.write({"event": "final", "n": 1})
    if how == "deleted":
        path.unlink()
    else:
        (tmp_path / "other").write_text("")
        os.replace(tmp_path / "other", path)
    sink.write({"event": "final", "n": 2})
    assert [record["event"] for record in lines(path)] == ["replaced", "final"]
    assert path.stat().st_mode & 0o777 in (0o600, 0o644)
    sink.close()


@pytest.mark.threat("O01")
def test_a_place_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable, match="cannot open"):
        JsonlSink(tmp_path / "nowhere" / "audit.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(AuditUnavailable):
        JsonlSink(tmp_path / "link")


@pytest.mark.threat("E07", "O12")
def test_a_record_is_one_line_whatever_is_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nasty = 'a\nb\r\x1b[31m\u2028\u202e"}\n{"event":"final"'
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    sink.write({"event": "final", "subject": nasty})
    assert lines(path) == [{"event": "final", "subject": nasty}]
    assert path.read_bytes().isascii()
    with caplog.at_level(logging.INFO, LOGGER):
        LogSink().write({"event": "final", "subject": nasty})
    message = caplog.records[-1].getMessage()
    assert message.isascii()
    assert message.isprintable()
    sink.close()


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "audit.jsonl")
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    sink.close()


FOREIGN = [b"half a line", b'{"half": ', b'{"whole": 1}\n', b'{"whole": 1}\nhalf', b"\n", b"\x00" * 10]


@pytest.mark.threat("R24")
@pytest.mark.parametrize("keep", ["all", "none", "a line", "half a line"])
@pytest.mark.parametrize("more", [b"", *FOREIGN])
def test_a_file_that_grew_or_was_cut_from_outside_is_told_and_no_record_is_lost_to_it(
    tmp_path: Path, more: bytes, keep: str
) -> None:
    """reports-policy B14."""
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    for number in range(3):
        sink.write({"n": number, "pad": "x" * 20})
    whole = path.read_bytes()
    size = {"all": len(whole), "none": 0, "a line": len(whole) // 3, "half a line": len(whole) - 10}[keep]
    with path.open("r+b") as file:
        file.truncate(size)
        file.seek(0, os.SEEK_END)
        file.write(more)
    for number in (3, 4):
        sink.write({"n": number})
    sink.close()
    told = [record for text in path.read_bytes().split(b"\n") if (record := record_of(text)) is not None]
    assert [record["n"] for record in told if "n" in record][-2:] == [3, 4], "every record of ours is a line of its own"
    events = [record["event"] for record in told if "event" in record]
    changed = bool(more) or keep != "all"
    assert bool({"replaced", "foreign"} & set(events)) is changed
    assert len([event for event in events if event != "truncated"]) == changed, "once, and not for our own writes"
    assert all(record.get("previous") for record in told if record.get("event") in ("replaced", "foreign"))


@pytest.mark.threat("R24")
def test_a_file_that_was_cut_and_filled_to_its_old_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = JsonlSink(path)
    sink.write({"n": 1})
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"y" * size)
    sink.write({"n": 2})
    sink.close()
    assert b'"foreign"' in path.read_bytes()
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"n": 2}
