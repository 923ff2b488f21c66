"""Hostile bytes, bounded: the kept corpus, changes of it, and what hypothesis thinks of. See `tests/fuzz`."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import corpus, mutate
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.parametrize("target", TARGETS)
CHANGES = 150


def test_the_kept_corpus_breaks_nothing(target: str) -> None:
    seeds = corpus(target)
    assert len(seeds) >= 2
    for data in seeds:
        TARGETS[target](data)


def test_changes_of_the_corpus_break_nothing(target: str) -> None:
    seeds, dice = corpus(target), random.Random(2026)
    for _ in range(CHANGES):
        data = mutate(seeds, dice)
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{data!r}") from error


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_break_nothing(target: str, data: bytes) -> None:
    TARGETS[target](data)
