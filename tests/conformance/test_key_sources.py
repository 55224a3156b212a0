"""The package's own key sources run the suite that authors run; the suite finds sources that do not hold."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from mcp_macaroon_middleware.builtin.key_sources import ENV, FILE
from mcp_macaroon_middleware.plugin import KeySourceContext, KeySourceType, PluginError
from mcp_macaroon_middleware.testing import KeySourceContract


class TestEnvironment(KeySourceContract):
    source = ENV

    @contextmanager
    def keep(self, text: str) -> Iterator[str]:
        name = f"MACAROON_TEST_{secrets.token_hex(4).upper()}"
        os.environ[name] = text
        try:
            yield name
        finally:
            del os.environ[name]

    @contextmanager
    def broken(self, text: str) -> Iterator[tuple[str, ...]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MACAROON_TEST_EMPTY", "")
            yield ("MACAROON_TEST_EMPTY",)


class TestFile(KeySourceContract):
    source = FILE

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.base = tmp_path

    @contextmanager
    def keep(self, text: str) -> Iterator[str]:
        path = self.base / secrets.token_hex(4)
        path.write_text(text + "\n", encoding="utf-8")
        path.chmod(0o600)
        yield path.name
        path.unlink()

    @contextmanager
    def broken(self, text: str) -> Iterator[tuple[str, ...]]:
        os.mkfifo(self.base / "pipe")
        (self.base / "folder").mkdir()
        (self.base / "nowhere").symlink_to(self.base / "gone")
        (self.base / "bytes").write_bytes(text.encode() + b"\xff")
        (self.base / "empty").write_text("\n")
        (self.base / "large").write_text(text * 5000)
        (self.base / "everybody's").write_text(text)
        (self.base / "everybody's").chmod(0o666)
        yield ("pipe", "folder", "nowhere", "bytes", "empty", "large", "everybody's")


# --- the suite finds what is wrong ----------------------------------------------------------------------------------

KEPT: dict[str, str] = {}


class Wrong(KeySourceContract):
    """A source over a mapping, in one way wrong."""

    timeout = 0.3
    wrong: ClassVar[str]

    def __init__(self, wrong: str) -> None:
        self.source = KeySourceType(scheme="wrong", fetch=getattr(self, wrong), summary="A mapping.")  # type: ignore[misc]

    def keep(self, text: str) -> AbstractContextManager[str]:
        @contextmanager
        def kept() -> Iterator[str]:
            name = secrets.token_hex(4)
            KEPT[name] = text
            yield name
            del KEPT[name]

        return kept()

    @contextmanager
    def broken(self, text: str) -> Iterator[tuple[str, ...]]:
        KEPT["broken"] = text
        yield ("broken",)
        del KEPT["broken"]

    def remembers(self, name: str, context: KeySourceContext) -> str:
        memory: dict[str, str] = self.__dict__.setdefault("memory", {})
        if name not in KEPT and name not in memory:
            raise PluginError("nothing")
        return memory.setdefault(name, KEPT.get(name, ""))

    def trims(self, name: str, context: KeySourceContext) -> str:
        return " ".join(KEPT[name].split())

    def foreign(self, name: str, context: KeySourceContext) -> str:
        return KEPT[name]

    def hangs(self, name: str, context: KeySourceContext) -> str:
        if name in KEPT and name != "broken":
            return KEPT[name]
        time.sleep(5)
        raise PluginError("too late")

    def talks(self, name: str, context: KeySourceContext) -> str:
        if name == "broken":
            raise PluginError(f"unexpected answer: {KEPT[name]}")
        if name not in KEPT:
            raise PluginError("nothing")
        return KEPT[name]


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        ("remembers", "test_a_changed_text_is_fetched_anew"),
        ("trims", "test_what_is_kept_comes_back_whole"),
        ("foreign", "test_a_name_that_is_no_name_is_refused_with_a_reason"),
        ("hangs", "test_whatever_goes_wrong_it_raises_in_time_and_shows_nothing"),
        ("talks", "test_whatever_goes_wrong_it_raises_in_time_and_shows_nothing"),
    ],
)
def test_the_suite_finds_a_source_that_does_not_hold(wrong: str, test: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        getattr(Wrong(wrong), test)()
