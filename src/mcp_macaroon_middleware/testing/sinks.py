"""`AuditSinkContract`: what the framework needs of an audit sink, as tests that every sink runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final

from ..plugin.contract import AuditSink

HOSTILE: Final[tuple[Mapping[str, Any], ...]] = (
    {"event": "final", "n": 1},
    {},
    {"text": 'a\nb\r\n{"event": "final", "forged": true}'},
    {"text": "\u2028\u2029\x00\x1b[31m\x7f\x85"},
    {"text": "é e\u0301 🔑 \u202e"},
    {"": "", 'a"b': "\\", "a\nb": 1},
    {"number": 10**30, "small": -1.5e-300, "flags": [True, False, None]},
    {"deep": {"list": [{"a": [1, [2, [3]]]}]}},
    {"long": "x" * 200_000},
)


class AuditSinkContract:
    """Subclass it and give `open_sink`, which yields a fresh sink and closes it, and `read`: what it has recorded.

    Give `break_sink` where the sink can be made unable to record; it must then raise, for a required sink that stays
    silent would let calls run unrecorded. A sink that hands records to somebody else's, such as standard logging, sets
    `owns_what_it_writes_to` to False: closing it closes nothing.
    """

    macaroon_suite: ClassVar[bool] = True
    owns_what_it_writes_to: ClassVar[bool] = True

    def open_sink(self) -> AbstractContextManager[AuditSink]:
        """A fresh sink."""
        raise LookupError(f"{type(self).__name__} gives no open_sink")

    def read(self, sink: AuditSink) -> Sequence[Mapping[str, Any]]:
        """Every record that the sink has recorded, in order, as it would be read back later."""
        raise LookupError(f"{type(self).__name__} gives no read")

    def break_sink(self, sink: AuditSink) -> bool:
        """Makes the sink unable to record; False where that cannot be done."""
        return False

    def test_a_record_is_there_when_write_returns(self) -> None:
        with self.open_sink() as sink:
            for number in range(3):
                sink.write({"event": "intent", "n": number})
                assert _plain(self.read(sink)[-1]) == {"event": "intent", "n": number}

    def test_records_come_back_in_order_as_they_were_one_each(self) -> None:
        with self.open_sink() as sink:
            for record in HOSTILE:
                sink.write(record)
            assert [_plain(record) for record in self.read(sink)] == [dict(record) for record in HOSTILE]

    def test_a_record_that_changes_later_is_kept_as_it_was(self) -> None:
        with self.open_sink() as sink:
            record = {"event": "final"}
            sink.write(record)
            record["event"] = "forged"
            assert _plain(self.read(sink)[0]) == {"event": "final"}

    def test_records_of_many_threads_do_not_mix(self) -> None:
        with self.open_sink() as sink:

            def write(thread: int) -> None:
                for number in range(25):
                    sink.write({"thread": thread, "n": number, "text": "x" * 500})

            threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found = [(record["thread"], record["n"]) for record in self.read(sink)]
            assert sorted(found) == [(thread, number) for thread in range(8) for number in range(25)]
            for thread_number in range(8):
                assert [n for thread, n in found if thread == thread_number] == list(range(25))

    def test_a_sink_that_cannot_record_raises(self) -> None:
        with self.open_sink() as sink:
            assert not self.break_sink(sink) or _raises(sink), "it cannot record, and says nothing"

    def test_a_closed_sink_raises_and_can_be_closed_again(self) -> None:
        with self.open_sink() as sink:
            sink.write({"event": "final"})
            sink.close()
            sink.close()
            assert _raises(sink) or not self.owns_what_it_writes_to, "a closed sink raises"


def _raises(sink: AuditSink) -> bool:
    try:
        sink.write({"event": "final"})
    except Exception:
        return True
    return False


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record)
