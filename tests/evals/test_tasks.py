"""What the tasks make of their documents: clusters, shots, groups, prompts, gold answers."""

import ast
import dataclasses
from pathlib import Path

import pytest
from lfl_jax.configs import math_ift

from lfl_jax.config import Config
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals import tasks
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import (
    gsm8k,
    held_out_problems,
    perplexity,
)
from lfl_jax.text.chat import TEMPLATES


def test_every_task_is_listed_under_its_name():
    assert {task.name: name for name, task in tasks.TASKS.items()} == {n: n for n in tasks.TASKS}


# Beside the tasks' own files: the paper's score is the mean of three, and the harness has tasks of
# the same names. studies/ has the paper's values of two of them, and a table of one; a run may not
# train on the text that perplexity scores, whose windows token forgetting and analyze score, too; a
# study reads the base's loss on the target, and counts the tokens of both texts. Names of data
# sources are in data/ and config/.
LOOK_UPS = {"TASKS", "check_tasks", "find", "named"}
NAME_TASKS = {
    "analysis/forgetting.py",
    "analysis/token_forgetting.py",
    "analyze_runs.py",
    "evals/harness/documents.py",
    "studies/capacity.py",
    "studies/published.py",
    "studies/records/run_measures.py",
    "studies/running/target_distance.py",
    "train_setup.py",
}


def test_a_new_task_is_a_file_and_a_line_as_nothing_else_names_tasks():
    package = Path(tasks.__file__).parents[2]
    elsewhere = [
        file
        for file in package.rglob("*.py")
        if not {"tasks", "data", "config", "configs"} & set(file.relative_to(package).parts)
        and file.relative_to(package).as_posix() not in NAME_TASKS
    ]
    named = set()
    for file in elsewhere:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in tasks.TASKS:
                named.add((file.name, node.value))
            if isinstance(node, ast.ImportFrom) and node.module == "lfl_jax.evals.tasks":
                named |= {
                    (file.name, name.name) for name in node.names if name.name not in LOOK_UPS
                }
    assert len(elsewhere) > 100 and named == set()


def test_fixed_shots_are_the_same_for_all_and_end_in_the_number(inputs):
    problems = gsm8k.problems(dataclasses.replace(inputs, shots=2))
    head = "Question: One and one?\nAnswer: It is 2.\n#### 2\n\nQuestion: Nine less 2?\nAnswer: It is $7.\n#### 7\n\n"
    assert all(
        p.prompt.startswith(head + "Question: ") and p.prompt.endswith("\nAnswer:")
        for p in problems
    )
    assert gsm8k.problems(dataclasses.replace(inputs, shots=0))[0].prompt == problems[
        0
    ].prompt.removeprefix(head)


def test_drawn_shots_differ_by_problem(inputs):
    drawn = gsm8k.draw(dataclasses.replace(inputs, shots=3, shots_from="lm_eval"), 16)
    assert len({str(shots) for shots in drawn}) > 10


@pytest.mark.parametrize("source", ["fixed", "lm_eval"])
def test_more_shots_than_there_are(inputs, source):
    with pytest.raises(UserError, match=r"config.eval.shots=11 is too many: '.*' has \d+"):
        gsm8k.problems(dataclasses.replace(inputs, shots=11, shots_from=source))


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("#### 1,234 apples 5", "1,234", "5"),
        ("a #### -3. #### 4", "-3.", "4"),
        ("####7", numbers.INVALID, "7"),
        ("it costs $1.50", numbers.INVALID, "$1.50"),
        ("no digits", numbers.INVALID, numbers.INVALID),
        ("so ...", numbers.INVALID, "..."),
    ],
)
def test_numbers_out_of_text(text, strict, flexible):
    assert (numbers.strict(text), numbers.flexible(text)) == (strict, flexible)


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("1,000.", "It is.\n#### 1000", True),
        ("$5", "5", True),
        ("18.0", "18", False),
        ("[INVALID]", "[invalid]", True),
    ],
)
def test_equality_is_of_strings(answer, gold, same):
    assert numbers.exact(answer, gold) is same


def examples(group: str, n: int) -> list[Example]:
    return [
        Example(f"{group} {i}?", f"So.\n#### {i}", f"{group}-{i}", f"template-{i % 2}")
        for i in range(n)
    ]


def test_groups_of_problems_take_turns(inputs):
    groups = {"seen": examples("seen", 3), "unseen": examples("unseen", 2)}
    problems = held_out_problems.problems(dataclasses.replace(inputs, problems=groups))
    assert [p.id for p in problems] == [
        "seen/seen-0",
        "unseen/unseen-0",
        "seen/seen-1",
        "unseen/unseen-1",
        "seen/seen-2",
    ]
    assert problems[0].prompt == "Question: seen 0?\nAnswer:"
    records = [gsm8k.record(p, "#### 0") for p in problems]
    records = [record | {"ended": 0.0} for record in records]
    found = held_out_problems.TASK.measure(records)
    exact = {name: each.estimate for name, each in found.items() if name.startswith("exact_match")}
    assert {name: (m.mean, m.n) for name, m in exact.items()} == {
        "exact_match": (0.4, 5),
        "exact_match_seen": (pytest.approx(1 / 3), 3),
        "exact_match_unseen": (0.5, 2),
    }
    assert records[1]["groups"] == ["unseen"]
    assert [
        n for n in held_out_problems.TASK.measure(records[::2]) if n.startswith("exact_match")
    ] == ["exact_match"]


def test_levels_are_tested_as_often_as_they_are_trained_and_scored_apart():
    config = Config.from_dict(math_ift.get_config())
    problems = held_out_problems.problems(evaluation_inputs.from_config(config))[:80]
    levels = [problem.groups[1] for problem in problems]
    assert [levels.count(f"level_{n}") for n in (1, 2, 3)] == [48, 24, 8]
    assert [problem.groups[0] for problem in problems[:2]] == ["test_seen", "test_unseen"]

    right = [level == "level_1" for level in levels]
    texts = [p.gold if ok else "#### none" for p, ok in zip(problems, right, strict=True)]
    records = [
        gsm8k.record(p, text) | {"ended": 1.0} for p, text in zip(problems, texts, strict=True)
    ]
    found = held_out_problems.TASK.measure(records)
    assert {
        name: (m.estimate.mean, m.estimate.n) for name, m in found.items() if "level" in name
    } == {
        "exact_match_level_1": (1.0, 48),
        "exact_match_level_2": (0.0, 24),
        "exact_match_level_3": (0.0, 8),
    }


def test_problems_asked_in_other_ways_than_in_training(inputs):
    trained = dataclasses.replace(
        inputs,
        problems={"seen": examples("seen", 2)},
        template=TEMPLATES["alpaca"],
        few_shot_examples=lambda: examples("train", 2),
    )
    first = {
        task.name: task.items(trained)[0].prompt
        for task in (held_out_problems.PLAIN, held_out_problems.SHOTS)
    }
    assert held_out_problems.TASK.items(trained)[0].prompt.endswith(
        "### Instruction:\nseen 0?\n\n### Response:\n"
    )
    assert first["source_test_plain"] == "Question: seen 0?\nAnswer:"
    shots = "".join(f"Question: train {i}?\nAnswer: So.\n#### {i}\n\n" for i in (0, 1))
    assert first["source_test_shots"] == shots + first["source_test_plain"]
    with pytest.raises(UserError, match="base_shots of at least 1"):
        held_out_problems.SHOTS.items(dataclasses.replace(trained, few_shot_examples=list))


def test_gsm8k_asked_as_in_training(inputs):
    trained = dataclasses.replace(inputs, template=TEMPLATES["alpaca"], shots=2)
    problem, plain = gsm8k.TRAINED.items(trained)[0], gsm8k.TASK.items(inputs)[0]
    question = inputs.docs("gsm8k-test")[0]["question"]
    assert problem.prompt.endswith(f"### Instruction:\n{question}\n\n### Response:\n")
    assert (problem.id, problem.gold) == (plain.id, plain.gold)


# Tasks that show examples before every item, with documents of their sets.
SHOWN = {
    "gsm8k": {"gsm8k-test": [{"question": "How many?", "answer": "#### 3"}]},
    "gsm8k_cot": {"gsm8k-test": [{"question": "How many?", "answer": "#### 3"}]},
    "math_minerva": {"math-test": [{"problem": "Half of 3?", "solution": r"\boxed{1.5}"}]},
    "math_minerva_lm_eval": {"math-test": [{"problem": "Half of 3?", "solution": r"\boxed{1.5}"}]},
    "mbpp": {
        "mbpp-test": [
            {"task_id": 1, "text": "Sum.", "code": "def f(): 1", "test_list": ["assert f() == 1"]}
        ]
    },
    "mmlu_5shot": {
        "mmlu-dev": [
            {"subject": "law", "question": f"Dev {i}?", "choices": list("wxyz"), "answer": 1}
            for i in range(5)
        ],
        "mmlu-test": [
            {"subject": "law", "question": "May I?", "choices": list("wxyz"), "answer": 0}
        ],
    },
    "arc_challenge_gauntlet": {
        "arc-challenge": [
            {
                "id": str(i),
                "query": f"Question: Why {i}?\nAnswer:",
                "choices": ["a", "b"],
                "gold": 1,
            }
            for i in range(9)
        ]
    },
    "source_test_shots": {},
}


@pytest.mark.parametrize("name", SHOWN)
def test_items_alone_are_without_the_examples_before_them(name):
    """Else a training source that holds one of the examples would seem to hold every item."""
    source = [Example(f"Problem {i}.", f"#### {i}", id=str(i), cluster=str(i)) for i in range(3)]
    given = Inputs(
        docs=SHOWN[name].__getitem__,
        fixed_shots=lambda: [("One and one?", "So the answer is 2.")],
        problems={"test": source[:1]},
        few_shot_examples=lambda: source[1:],
        shots=1,
    )
    whole, alone = (
        [
            prompt(item)
            for item in tasks.TASKS[name].items(dataclasses.replace(given, without_few_shot=a))
        ]
        for a in (False, True)
    )
    assert all(
        long.endswith(short) and len(short) < len(long)
        for long, short in zip(whole, alone, strict=True)
    )


def prompt(item) -> str:
    return item.prompt if hasattr(item, "prompt") else getattr(item, "shots", "") + item.pairs[0][0]


@pytest.mark.parametrize(
    ("graded", "words"), [(4, ""), (2, ""), (1, "1 of 4 held-out answers have a number after ####")]
)
def test_exact_answers_are_left_out_where_most_references_have_none(inputs, graded, words):
    made = [
        Example(f"q{i}", f"#### {i}" if i < graded else "A town.", f"e{i}", "c") for i in range(4)
    ]
    given = dataclasses.replace(inputs, problems={"test": made})
    assert held_out_problems.TASK.skip_reason(given).startswith(words)
    assert bool(held_out_problems.TASK.skip_reason(given)) is bool(words)


def test_a_conversation_is_asked_and_scored_with_all_that_comes_before_its_last_answer(
    inputs, tokenizer
):
    turns = (
        ("system", "Terse."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "2?"),
        ("assistant", "#### 2"),
    )
    chat = Example("2?", "#### 2", "e", "c", turns=turns)
    given = dataclasses.replace(
        inputs, problems={"test": [chat]}, target=[chat], template=TEMPLATES["chatml"]
    )
    (problem,), (target,) = held_out_problems.problems(given), perplexity.targets(given)
    before, answer = TEMPLATES["chatml"].prompt_and_response(turns)
    assert problem.prompt == target.prompt == before
    assert "Terse." in before and "Hello.<|im_end|>" in before and before.endswith("assistant\n")
    assert (problem.gold, target.response) == ("#### 2", answer)


def test_held_out_data_is_not_needed_where_no_evaluation_reads_it(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "Say one", "response": "one"}\n')
    c = math_ift.get_config("smoke")
    c.data.path, c.eval.tasks, c.eval.every_tasks = str(file), ("hellaswag:2",), ()
    found = [
        evaluation_inputs.from_config(Config.from_dict(c), dev=dev).problems
        for dev in (False, True)
    ]
    assert found == [{}, {}]
    c.eval.tasks = ("source_test:2",)
    with pytest.raises(UserError, match="config.data.test_path, or evaluate nothing on it"):
        evaluation_inputs.from_config(Config.from_dict(c))
