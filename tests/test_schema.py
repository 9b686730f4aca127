"""What stands in the schema once, and is read everywhere."""

from typing import Any

import pytest

from curate.pack.card import card
from curate.schema import ERROR_CLASSES, FETCH, HEALING_CLASSES, REASONS_BEFORE, reason_words

REASONS = [*REASONS_BEFORE, *(FETCH + name for name in ERROR_CLASSES)]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_before_the_steps_has_words_of_one_line(reason):
    words = reason_words(reason)
    assert len(words.split()) >= 3
    assert words.isprintable()
    assert not words.endswith(".")


def test_the_words_tell_reasons_apart():
    assert len({reason_words(reason) for reason in REASONS}) == len(REASONS)


def test_an_unknown_reason_has_no_words():
    for reason in ("fetch:other", "other", "dns"):
        with pytest.raises(KeyError):
            reason_words(reason)


def test_what_may_heal_is_a_class():
    assert set(HEALING_CLASSES) <= set(ERROR_CLASSES)


def test_the_card_has_the_words_of_every_reason():
    facts: dict[str, Any] = {"kind": "before", "seen": 9, "dropped": 1, "nulls": 0, "searches": []}
    steps = [{"name": reason, "rule": reason_words(reason), **facts} for reason in REASONS]
    funnel = {"planned": 9, "kept": 1, "missing_parts": [], "sample": None, "steps": steps}
    said = card(funnel, {}, {"m": {}}, [])
    for step in steps:
        assert f"| `{step['name']}` | {reason_words(step['name'])} |" in said
