"""The word problems: every wording of every template is computed again, and the splits are kept
apart."""

import ast
import hashlib
import itertools
import operator
import os
import random
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from lfl_jax.data import word_problems
from lfl_jax.data.examples import Example
from lfl_jax.data.word_problems import (
    HELD_OUT,
    SPLITS,
    TEMPLATES,
    TOP,
    Problem,
    generate,
    generator,
    source,
    vocabulary,
)
from lfl_jax.errors import UserError

EQUATION = re.compile(r"([$\d(][$\d\s+\-*/().]*?) = (\$?\d+(?:\.\d+)?)")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# What a solver brings along: counts of sides, two directions, tests, shares of a pair; and units.
COMMON = {1, 2, 3, 4, 60, 100, 1000}
WORDS = {
    **{
        word: [part.numerator, part.denominator] for part, word in vocabulary.FRACTION_WORDS.items()
    },
    **{word: [number] for number, word in vocabulary.TIMES_WORDS.items()},
}
COUNTED_BY_LINES = ("theatre_rows", "doubling_views")
DRAWS = 200
NAMED = {name: template for templates in TEMPLATES.values() for name, template in templates.items()}
NAMES = [(level, name) for level in TEMPLATES for name in TEMPLATES[level]]
STEPS = {1: (1, 1), 2: (2, 2), 3: (2, 6)}  # equations of a level's solutions, least and most
LADDER = (6, 3, 1)


def evaluate(text: str) -> Fraction:
    """The exact value of an expression of numbers, + - * / and parentheses."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), ast.dump(node)
        return Fraction(str(node.value))

    return value(ast.parse(text.replace("$", ""), mode="eval").body)


def numbers(text: str) -> set[Fraction]:
    """All numbers written in a text, in digits or as fractions and multiples in words."""
    found = {Fraction(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}
    return found | {
        Fraction(n) for word, values in WORDS.items() if word in text.lower() for n in values
    }


def wordings(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """Every question of one draw with every solution, not only the pair the template would
    choose."""
    problems = []

    def every(rng, questions, solutions, answer):
        for question, lines in itertools.product(questions, solutions):
            problems.append(Problem(question, "\n".join([*lines, f"#### {answer}"]), answer))
        return problems[0]

    module = sys.modules[NAMED[name].__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "compose", every)
        NAMED[name](random.Random(seed))
    return problems


def implied(question: str) -> set[Fraction]:
    """What a question gives without writing it: the hours between two times, and whole
    quotients."""
    times = [
        int(hour) % 12 + (12 if half == "pm" else 0)
        for hour, half in re.findall(r"(\d+):00 (am|pm)", question)
    ]
    values = [int(n) for n in re.findall(r"\d+", question)]
    whole = "leftover" in question or "remaining" in question
    quotients = {Fraction(a // b) for a in values for b in values if b > 1} if whole else set()
    return quotients | ({Fraction(max(times) - min(times))} if times else set())


def check_arithmetic(problem: Problem, level: int = 3) -> None:
    steps = EQUATION.findall(problem.solution)
    assert STEPS[level][0] <= len(steps) <= STEPS[level][1], problem
    assert len(steps) == problem.solution.count("="), (
        f"an equation that cannot be read in {problem}"
    )
    known = numbers(problem.question) | implied(problem.question) | COMMON
    for expression, result in steps:
        assert evaluate(expression) == Fraction(result.lstrip("$")), (
            f"{expression} = {result} in {problem}"
        )
        assert numbers(expression) <= known, f"{expression} uses a number from nowhere in {problem}"
        known |= numbers(result)
    assert problem.answer >= 0
    assert problem.solution.splitlines()[-1] == f"#### {problem.answer}"
    assert problem.solution.count("####") == 1
    assert Fraction(steps[-1][1].lstrip("$")) == problem.answer, problem


def check_english(problem: Problem) -> None:
    question, solution = problem.question, problem.solution
    last = re.split(r"(?<=[.?]) ", question)[-1]
    assert last.endswith("?") or last.startswith("Find "), question
    text = f"{question}\n{solution.rsplit(chr(10), 1)[0]}"
    wrong = r"[{}\[\]]|  | [.,?]|\.\.|\bNone\b|(?m:^ | $)|\b([a-z]+) \1\b|\d,\d"
    assert not re.search(wrong, text), text
    assert not re.search(r"(?<![\d:$*/+-] )(?<![\d:$])\b1 [a-z]{2,}s\b", text), (
        f"one of several: {text}"
    )
    assert not re.search(r"\b(?:[2-9]|\d\d+) (?:apple|hour|day|meter|box|child|person)\b", text), (
        text
    )
    assert not re.search(
        r"\b[Aa] [aeioAEIO]|\b[Aa]n (?!hour)[^aeiouAEIOU\d]|\ba \$?8\b|\ba \$?1[18]\b", text
    ), text
    assert all(line[0].isupper() or line[0].isdigit() for line in text.splitlines()), text
    sentences = [line for line in text.splitlines() if not EQUATION.fullmatch(line)]
    assert all(line[-1] in ".?" for line in sentences), text


@pytest.mark.parametrize(("level", "name"), NAMES)
def test_draws_are_sound(level, name):
    texts = set()
    for seed in range(DRAWS):
        problem = NAMED[name](random.Random(seed))
        check_arithmetic(problem, level)
        check_english(problem)
        texts.add(problem.question)
    assert len(texts) >= 0.9 * DRAWS


@pytest.mark.parametrize(("level", "name"), NAMES)
def test_every_wording_is_sound_and_of_one_stratum(level, name, monkeypatch):
    for seed in range(1000, 1030):
        problems = wordings(name, seed, monkeypatch)
        assert len({problem.question for problem in problems}) >= 2
        assert len({problem.solution for problem in problems}) >= (2 if level == 3 else 1)
        for problem in problems:
            check_arithmetic(problem, level)
            check_english(problem)
        assert len({generator._stratum(name, problem.question) for problem in problems}) == 1, (
            problems[0]
        )


@pytest.mark.parametrize("name", NAMED)
def test_every_number_of_a_question_matters(name, monkeypatch):
    """Distractors are not meant; a number that no solution of any draw uses is a mistake of the
    template."""
    for seed in range(2000, 2010):
        for problem in wordings(name, seed, monkeypatch):
            given = re.sub(r"\d+:00", "", problem.question)
            unused = numbers(given) - numbers(problem.solution)
            allowed = {3, 4, 5} if name in COUNTED_BY_LINES else set()
            assert unused <= {1, 2} | allowed, f"{unused} in {problem}"


def test_evaluator_and_checks_can_fail():
    assert evaluate("2 * ($3 + 4) / 7") == 2
    good = Problem(
        "Ann has 4 pens and 5 more. How many?", "She has 4 + 5 = 9.\nThen 9 * 1 = 9.\n#### 9", 9
    )
    check_arithmetic(good)
    check_english(good)
    for wrong in (
        ("= 9.\nThen", "= 8.\nThen"),
        ("9 * 1 = 9", "9 * 2 = 18"),
        ("4 + 5", "2 + 7"),
        ("#### 9", "#### 09"),
    ):
        with pytest.raises(AssertionError):
            check_arithmetic(Problem(good.question, good.solution.replace(*wrong), 9))
    for wrong in (
        ("4 pens", "1 pens"),
        ("4 pens", "a apple"),
        ("and", "and  "),
        ("How many?", "Tell."),
    ):
        with pytest.raises(AssertionError):
            check_english(Problem(good.question.replace(*wrong), good.solution, 9))


def test_templates_and_held_out():
    assert {level: len(TEMPLATES[level]) for level in TEMPLATES} == {1: 14, 2: 12, 3: 48}
    assert {level: len(set(HELD_OUT[level])) for level in TEMPLATES} == {1: 4, 2: 4, 3: 8}
    assert all(set(HELD_OUT[level]) < set(TEMPLATES[level]) for level in TEMPLATES)
    assert len(NAMED) == len(NAMES), "a name stands for one template"
    assert all(NAMED[name].__name__ == name for name in NAMED)
    assert word_problems.SYNTHETIC
    described = (
        "synthetic: generated word problems, seed 3, levels 1:2:3 as 2:0:1, 50 training templates"
    )
    assert word_problems.describe(3, (2, 0, 1)) == described


@pytest.mark.parametrize("level", TEMPLATES)
@pytest.mark.parametrize("split", SPLITS)
def test_splits_use_their_templates_evenly(split, level):
    held_out = set(HELD_OUT[level])
    expected = held_out if split == "test_unseen" else set(TEMPLATES[level]) - held_out
    only = tuple(int(level == other) for other in TEMPLATES)
    clusters = [example.cluster for example in source(0, split, 3 * len(expected), only)]
    assert set(clusters) == expected
    assert all(clusters.count(name) == 3 for name in expected)
    assert clusters[: len(expected)] != clusters[len(expected) : 2 * len(expected)]


@pytest.mark.parametrize("split", SPLITS)
def test_every_round_holds_the_levels_at_their_rates(split):
    items = list(source(0, split, 40, LADDER))
    for start in range(0, 40, 10):
        groups = [example.group for example in items[start : start + 10]]
        assert [groups.count(f"level_{level}") for level in TEMPLATES] == list(LADDER)
    assert all(example.cluster in TEMPLATES[int(example.group[-1])] for example in items)


@pytest.mark.parametrize("levels", [TOP, LADDER, (1, 0, 0)])
def test_splits_are_disjoint_across_seeds(levels):
    train = {example.prompt for example in source(0, "train", 2000, levels)}
    assert len(train) >= 1980
    for split, seed in itertools.product(("dev", "test_seen", "test_unseen"), (0, 1)):
        items = list(source(seed, split, 200, levels))
        assert train.isdisjoint(example.prompt for example in items)
        assert len({example.prompt for example in items}) >= 190
        strata = {generator._stratum(example.cluster, example.prompt) for example in items}
        assert split == "test_unseen" or strata == set(generator._STRATA[split])
    assert not any(
        set(generator._STRATA[a]) & set(generator._STRATA[b])
        for a, b in itertools.combinations(("train", "dev", "test_seen"), 2)
    )


def test_same_item_in_every_process():
    code = (
        "import hashlib; from lfl_jax.data.word_problems import SPLITS, generate\n"
        "text = ''.join(repr(generate(7, i, s, (6, 3, 1))) for s in SPLITS for i in (0, 1, 57,"
        " 10**9))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    text = "".join(repr(generate(7, i, s, (6, 3, 1))) for s in SPLITS for i in (0, 1, 57, 10**9))
    expected = hashlib.sha256(text.encode()).hexdigest()
    for salt in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": salt,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-c", code]
        assert (
            subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()
            == expected
        )


def test_items_stay_the_same():
    """Results are reported on these items: update the hash only when they are meant to change."""
    text = "".join(repr(generate(0, i, split, LADDER)) for split in SPLITS for i in range(40))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "58be4fbb79479146"


def test_arguments_matter():
    base = generate(0, 5, "train", TOP)
    assert base == generate(0, 5, "train", TOP)
    assert base.id == "train/5"
    for other in ((1, "train"), (0, "dev"), (0, "test_seen")):
        pairs = [
            (generate(0, i, "train", TOP), generate(other[0], i, other[1], TOP)) for i in range(300)
        ]
        same = [(a, b) for a, b in pairs if a.cluster == b.cluster]
        assert 1 <= len(same) <= 40
        assert all(a.prompt != b.prompt for a, b in same)


def test_source_is_a_sequence():
    items = source(0, "dev", 12, LADDER)
    assert len(items) == 12
    assert isinstance(items[0], Example)
    assert items[np.int64(3)] == generate(0, 3, "dev", LADDER)
    assert items[-1] == generate(0, 11, "dev", LADDER)
    assert [example.id for example in items] == [f"dev/{i}" for i in range(12)]
    with pytest.raises(IndexError):
        items[12]


def test_mistakes_are_told():
    with pytest.raises(
        UserError, match=r"unknown split 'test'.*train, dev, test_seen, test_unseen"
    ):
        generate(0, 0, "test", TOP)
    with pytest.raises(UserError, match="unknown split"):
        source(0, "valid", 3, TOP)
    with pytest.raises(UserError, match="at least 0"):
        source(0, "train", -1, TOP)


def test_problems_are_compact():
    lengths = [len(e.prompt) + len(e.response) for e in source(0, "train", 400, TOP)]
    assert 90 <= sum(lengths) / len(lengths) / 3.4 <= 180
    assert max(lengths) < 800
