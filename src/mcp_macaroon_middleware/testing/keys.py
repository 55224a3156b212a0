"""`KeySourceContract`: what the framework needs of a key source, as tests that every source runs."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from ..config.key_sources import MAX_CHARACTERS, in_time, scheme_of
from ..plugin import KeySourceContext, KeySourceType, PluginError

HOSTILE: Final = ("", " ", ".", "..", "../../etc", "/", "#", "#x", "x#", "?a=b", "a=b", "%2e%2e/x", "a\nb", "\x00", "é")
SLACK: Final = 2.0


class KeySourceContract:
    """Subclass it; give `source`, and `keep`, which puts a text where the source looks and yields its name there.

    Give `settings` where the source takes any, `credentials`: the texts by which it is let in, and `broken`, which
    makes what the source asks hang or answer rubbish that holds `text`, where that can be done. `timeout` is what the
    source is told, in seconds.
    """

    macaroon_suite: ClassVar[bool] = True
    source: ClassVar[KeySourceType]
    settings: Any = None
    base: Path = Path()
    credentials: tuple[str, ...] = ()
    timeout: float = 3.0

    def keep(self, text: str) -> AbstractContextManager[str]:
        """Puts a text where the source looks, for as long as the block runs; yields its name there."""
        raise LookupError(f"{type(self).__name__} gives no keep")

    @contextmanager
    def broken(self, text: str) -> Iterator[tuple[str, ...]]:
        """Makes what the source asks go wrong; yields names at which it does so, each in a way of its own."""
        yield ()

    def fetch(self, name: str) -> str:
        """What the source has under a name, fetched as the framework does: in a thread, and in time."""
        context = KeySourceContext(settings=self.settings, base=self.base, timeout=self.timeout)
        return in_time(lambda: self.source.fetch(name, context), self.timeout + SLACK)

    def test_its_scheme_can_be_written_in_a_policy_file(self) -> None:
        assert scheme_of(f"{self.source.scheme}:name") == self.source.scheme
        assert self.source.summary, "it says in a line where keys come from"

    def test_what_is_kept_comes_back_whole(self) -> None:
        for text in _texts():
            with self.keep(text) as name:
                assert self.fetch(name) == text
                assert self.fetch(name) == text, "twice the same"

    def test_two_names_are_two_texts(self) -> None:
        first, second = _secret(), _secret()
        with self.keep(first) as one, self.keep(second) as other:
            assert one != other
            assert (self.fetch(one), self.fetch(other)) == (first, second)

    def test_a_changed_text_is_fetched_anew(self) -> None:
        with self.keep(_secret()) as name:
            self.fetch(name)
        assert _refused(self, name), "what is gone is not remembered"

    def test_it_can_be_asked_while_an_event_loop_runs(self) -> None:
        async def inside(name: str) -> str:
            return self.fetch(name)

        text = _secret()
        with self.keep(text) as name:
            assert asyncio.run(inside(name)) == text

    def test_a_name_that_is_no_name_is_refused_with_a_reason(self) -> None:
        text = _secret()
        with self.keep(text):
            for name in (*HOSTILE, "x" * 9000):
                shown = _refused(self, name)
                assert shown, f"{name[:20]!r} brought something"
                _shows_nothing(shown, text, *self.credentials)

    def test_whatever_goes_wrong_it_raises_in_time_and_shows_nothing(self) -> None:
        text = _secret()
        with self.broken(text) as names:
            for name in names:
                began = time.monotonic()
                shown = _refused(self, name)
                assert shown, f"{name!r} brought something though it is broken"
                assert time.monotonic() - began < self.timeout + SLACK, f"{name!r} took too long"
                _shows_nothing(shown, text, *self.credentials)

    def test_no_repr_shows_how_it_is_let_in(self) -> None:
        _shows_nothing(f"{self.settings!r} {self.source!r}", *self.credentials)


def _refused(suite: KeySourceContract, name: str) -> str:
    """What is seen of the refusal, its causes included; nothing where a text came."""
    try:
        suite.fetch(name)
    except PluginError as error:
        why, shown = str(error), "".join(traceback.format_exception(error, chain=True))
    except TimeoutError:
        raise AssertionError(f"{name[:20]!r}: it did not give up within its timeout") from None
    else:
        return ""
    assert why, "a refusal says why"
    return shown


def _shows_nothing(shown: str, *texts: str) -> None:
    for text in texts:
        for form in (text, base64.b64encode(text.encode()).decode(), text.encode().hex()):
            assert form not in shown, "a message shows what nobody may see"


def _texts() -> Iterator[str]:
    """What keys look like: a secret, a text with every kind of mark, a key file's text."""
    yield _secret()
    yield "a passphrase: of {words}, 'quotes' & \"more\", 50 % + é \\ ${HOME} #1"
    yield json.dumps({"version": 1, "keys": [{"secret": _secret()}]}, indent=2)
    yield secrets.token_hex(8000)[: MAX_CHARACTERS // 8]


def _secret() -> str:
    return secrets.token_urlsafe(48)
