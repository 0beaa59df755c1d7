"""Overlaps are found wherever they are, whatever their case and punctuation, and nothing else
is."""

import json
import random
from dataclasses import dataclass

import pytest

from lfl_jax.data.decontaminate import item_text, overlaps, report, words

RNG = random.Random(0)
WORDS = [f"w{i}" for i in range(500)]


def text(n):
    return " ".join(RNG.choices(WORDS, k=n))


LONG = [text(60) for _ in range(30)]


def test_words_are_lower_case_without_punctuation():
    assert words("Don't  stop, (x+y)=Z!\n") == ["dont", "stop", "xyz"]


@pytest.mark.parametrize("start", [0, 20, 47])
def test_thirteen_words_in_common_are_an_overlap(start):
    shared = LONG[3].split()[start : start + 13]
    source = [text(40), f"{text(9)} {' '.join(shared).upper()}!", text(40)]
    items = {"a": {str(i): t for i, t in enumerate(LONG)}, "b": {"x": text(50)}}
    assert overlaps(source, items) == {"a": {"3": " ".join(shared)}, "b": {}}


def test_twelve_words_are_none():
    source = [f"before {' '.join(LONG[3].split()[5:17])} after"]
    items = {"a": {str(i): t for i, t in enumerate(LONG)}}
    assert overlaps(source, items) == {"a": {}}
    assert overlaps(source, items, n=12) == {"a": {"3": " ".join(LONG[3].split()[5:17])}}


def test_the_words_have_to_stand_together():
    cut = LONG[3].split()[:13]
    assert overlaps([" ".join(cut[:7]), " ".join(cut[7:])], {"a": {"3": LONG[3]}}) == {"a": {}}
    assert overlaps(
        [f"{' '.join(cut[:7])} between {' '.join(cut[7:])}"], {"a": {"3": LONG[3]}}
    ) == {"a": {}}


def test_every_item_with_the_words_is_reported_with_the_first_of_them():
    items = {"a": {"1": LONG[0], "2": f"other {LONG[0]}"}, "b": {"3": LONG[0]}}
    gram = " ".join(LONG[0].split()[:13])
    assert overlaps([LONG[0], LONG[0]], items) == {"a": {"1": gram, "2": gram}, "b": {"3": gram}}


def test_short_items_are_looked_for_as_a_whole_and_the_shortest_not():
    nine, seven = (
        "one two three four five six seven eight nine",
        "one two three four five six seven",
    )
    items = {"a": {"nine": nine, "seven": seven, "empty": ""}}
    found = overlaps([f"so {nine.title()}, ten"], items)
    assert found == {"a": {"nine": nine}}
    assert overlaps([nine.removesuffix("nine") + "ten"], items) == {"a": {}}
    assert report(found, items, {"name": "s"})["tasks"]["a"] == {
        "items": 3,
        "too_short": 2,
        "overlapping": 1,
        "ngrams": {"nine": nine},
    }


def test_agrees_with_looking_for_every_ngram():
    """Against the plain way, on texts of few words, where overlaps are many."""
    rng = random.Random(1)

    def draw(n):
        return " ".join(rng.choices("ab", k=n))

    source, items = (
        [draw(40) for _ in range(20)],
        {"t": {str(i): draw(rng.randint(3, 30)) for i in range(100)}},
    )
    grams = {tuple(s.split()[i : i + 10]) for s in source for i in range(31)}
    expected = {
        name
        for name, item in items["t"].items()
        for i in range(len(item.split()) - 9)
        if tuple(item.split()[i : i + 10]) in grams
    }
    found = overlaps(
        source, {"t": {n: t for n, t in items["t"].items() if len(t.split()) >= 10}}, n=10
    )["t"]
    assert set(found) == expected
    assert expected
    assert all(gram in items["t"][name] for name, gram in found.items())


def test_a_report_is_json_and_progress_counts_texts():
    seen = []
    items = {"a": {"3": LONG[3]}}
    found = overlaps([LONG[3], text(3), ""], items, progress=seen.append)
    made = report(found, items, {"name": "source", "sha256": "00"})
    assert json.loads(json.dumps(made)) == made
    assert (made["n"], made["source"]["name"], made["tasks"]["a"]["overlapping"]) == (
        13,
        "source",
        1,
    )
    assert sum(seen) == 3


def test_no_items_and_no_texts():
    assert overlaps([LONG[0]], {}) == {}
    assert overlaps([], {"a": {"1": LONG[0]}}) == {"a": {}}


def test_the_text_of_an_item_is_all_it_says_and_not_its_name():
    @dataclass(frozen=True)
    class Item:
        id: str
        cluster: str
        prompt: str
        choices: tuple[str, ...]
        gold: int

    assert item_text(Item("id", "cluster", "prompt", ("a", "b"), 1)) == "prompt\na\nb"
