"""The tables of the memory store: the same as a plain dictionary, whatever comes, goes and ends in them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_macaroon_middleware.builtin import memory_entries
from mcp_macaroon_middleware.builtin.memory_entries import END, OrderedEntries

keys = st.sampled_from([f"k{number}" for number in range(30)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), keys, st.integers(1, 50)),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("ended"), st.integers(1, 20), st.integers(1, 10)),
    ),
    max_size=120,
)


@pytest.fixture(params=[1, 4, 4096])
def tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_entries, "TABLES", request.param)
    monkeypatch.setattr(memory_entries, "CHUNK", 3)


@pytest.mark.usefixtures("tables")
def test_it_is_a_mapping_in_the_order_of_its_keys_and_loses_nothing_but_what_has_ended() -> None:
    @settings(max_examples=150, deadline=None)
    @given(steps)
    def check(plan: list[Any]) -> None:
        made, model, now = OrderedEntries(), dict[str, bytes](), 0
        for step in plan:
            match step:
                case ("set", key, seconds):
                    made[key] = model[key] = END.pack(now + seconds)
                case ("delete", key):
                    assert made.pop(key, None) == model.pop(key, None)
                case ("ended", seconds, looks):
                    now += seconds
                    for key, entry in made.ended(now, looks):
                        assert memory_entries.end_of(entry) <= now
                        assert model.pop(key) == entry
            assert dict(made) == model
            assert len(made) == len(model)
            assert list(made.after("", itself=True)) == sorted(model)
            assert list(made.after("k2", itself=True)) == [key for key in sorted(model) if key >= "k2"]
            assert list(made.after("k2", itself=False)) == [key for key in sorted(model) if key > "k2"]
        assert dict(copy.deepcopy(made)) == model
        gone = {key for key, _ in made.ended(now + 25, 10**9)}
        assert gone == {key for key, entry in model.items() if memory_entries.end_of(entry) <= now + 25}
        list(made.ended(now + 100, 10**9))
        assert not made
        assert list(made.after("", itself=True)) == []
        assert (made._tables, made._firsts, made._chunks, made._heads) == ({}, {}, [], [])

    check()


@pytest.mark.threat("P03")
def test_what_is_noted_of_ends_stays_small() -> None:
    made = OrderedEntries()
    for number in range(20_000):
        made[f"k{number % 50}"] = END.pack(1e6 - number)
        assert len(made._due) <= 2 * len(made._firsts) + 65
