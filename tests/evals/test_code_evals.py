"""HumanEval and MBPP: prompts and cuts as in the harnesses, pass@k by its definition, and the
data's own solutions."""

import dataclasses
import hashlib
import itertools
import math
import random
import re

import numpy as np
import pytest

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.errors import UserError
from lfl_jax.evals import records, sandbox
from lfl_jax.evals.grading import code_text, pass_at_k
from lfl_jax.evals.methods import MAX_SAMPLES
from lfl_jax.evals.run import Evaluation
from lfl_jax.evals.sandbox import Verdict
from lfl_jax.evals.settings import Sampling, Settings
from lfl_jax.evals.task import Inputs, Scorer
from lfl_jax.evals.tasks import humaneval, mbpp
from lfl_jax.text import stops
from lfl_jax.text.chat import TEMPLATES
from lfl_jax.text.tokenizers import byte_tokenizer

PASSED, FAILED = Verdict(True, "passed", 0.1, ""), Verdict(False, "assertion", 0.1, "")
DOC = {
    "task_id": "HumanEval/x",
    "prompt": '\nfrom math import floor\n\ndef f(x):\n    """ One more. """\n',
    "entry_point": "f",
    "canonical_solution": "    return floor(x) + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert floor(candidate(1)) =="
    " f(1)\n",
}
MBPP_DOC = {
    "task_id": 7,
    "text": "Sum.",
    "code": "class Pair:\r\n    pass\r\nNAME = 1\r\ndef sum(a, b):\r\n    return a + b",
    "test_list": [
        "assert sum(1, 2) == 3",
        "assert sum(int(2), 2) == 4",
        "assert sum(root, -1) == 0",
    ],
    "test_setup_code": "root = NAME",
}


def isolated() -> None:
    refused = sandbox._refusal("namespaces")
    if refused is not None:
        pytest.skip(f"generated code is not run on this machine: {refused}")


def fetched(name: str) -> list[dict]:
    if not assets.is_cached(name):
        pytest.skip(f"{name} is not fetched: python -m lfl_jax.fetch {name}")
    isolated()
    return readers.docs(name)


def counted(programs) -> list[bool]:
    verdicts = dict(sandbox.check_many(programs, workers=2))
    return [verdicts[i].passed for i in range(len(programs))]


# The estimator


@pytest.mark.parametrize(
    ("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 2, 4), (6, 6, 2), (6, 0, 6)]
)
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(n, c, k):
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    expected = sum(any(draw) for draw in draws) / len(draws)
    assert pass_at_k.per_problem([n], [c], [k])[0, 0] == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_is_exact_for_many_samples():
    n, c, ks = [256] * 5 + [300], [0, 1, 128, 255, 256, 7], [1, 2, 10, 100, 256]
    exact = [
        [1 - math.comb(a - b, k) / math.comb(a, k) for a, b in zip(n, c, strict=True)] for k in ks
    ]
    np.testing.assert_allclose(pass_at_k.per_problem(n, c, ks), exact, rtol=1e-12)
    tiny = pass_at_k.per_problem([10**9], [1], [1])[0, 0]
    assert tiny == pytest.approx(1e-9, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "ks"),
    [([5], [1], [6]), ([5], [1], [0]), ([5], [6], [1]), ([], [], [1]), ([5], [1], [])],
)
def test_an_impossible_k_or_count_is_refused(n, c, ks):
    with pytest.raises(UserError):
        pass_at_k.per_problem(n, c, ks)


def test_pass_at_k_is_over_the_problems_with_enough_samples_with_errors_over_problems():
    head = {"unique": 1, "unique_passed": 1, "unique_failed": 0, "samples": [], "ended": 1.0}
    counts = ((8, 2), (4, 0), (4, 4))
    made = [
        head | {"id": str(i), "cluster": str(i), "n": n, "c": c} for i, (n, c) in enumerate(counts)
    ]
    found = {name: each.estimate for name, each in humaneval.TASK.measure(made).items()}
    assert (
        found["pass@1"].mean == pytest.approx((0.25 + 0 + 1) / 3) and found["pass@1"].clusters == 3
    )
    assert found["pass@1"].se == pytest.approx(np.std([0.25, 0, 1], ddof=1) / math.sqrt(3))
    assert (found["pass@4"].n, found["pass@8"].n) == (3, 1) and "pass@16" not in found


def test_diversity_counts_distinct_texts():
    found = pass_at_k.diversity(["a", "a", "b", "c", "c "], [True, True, True, False, False])
    assert found == pass_at_k.Diversity(unique=4, unique_passed=2, unique_failed=2)


@pytest.mark.parametrize("seed", range(4))
def test_diversity_of_a_record_is_a_recount_of_its_samples(seed):
    """Counted again from the samples of the record, pair by pair: none equals an earlier one."""
    draws = random.Random(seed)
    texts = [draws.choice("abcd") * draws.randint(1, 2) for _ in range(12)]
    verdicts = [draws.choice((PASSED, FAILED)) for _ in texts]
    problem = humaneval.problem(DOC, "humaneval-bigcode")
    record = humaneval.TASK.method.record(problem, texts, verdicts)

    def distinct(passes):
        chosen = [x["text"] for x in record["samples"] if x["passed"] in passes]
        return sum(
            not any(text == earlier for earlier in chosen[:i]) for i, text in enumerate(chosen)
        )

    found = humaneval.TASK.measure([record | {"ended": 0.0}])
    for name, passes in (
        ("unique", {True, False}),
        ("unique_passed", {True}),
        ("unique_failed", {False}),
    ):
        assert record[name] == found[name].estimate.mean == distinct(passes)
    assert record["unique"] <= record["unique_passed"] + record["unique_failed"]


# What is cut from a text


def test_the_cuts_of_the_harnesses():
    text = "    return 1\n\n@x\ndef g():\n    pass\nif x:\n```"
    assert code_text.completion("humaneval-bigcode", text) == "    return 1\n"
    assert code_text.completion("humaneval-lm-eval", text) == "    return 1\n\n@x"
    assert (
        code_text.completion("humaneval-lm-eval", "    x\n    def g():\n")
        == "    x\n    def g():\n"
    )
    assert (
        code_text.completion("mbpp-lm-eval", "def f():\n    1\n[DONE]\n[BEGIN]")
        == "def f():\n    1\n"
    )
    assert code_text.completion("mbpp-bigcode", "def f():\n    1\nassert f()") == "def f():\n    1"
    assert [code_text.completion(form, "") for form in code_text.STOP] == [""] * 4


def test_cutting_in_turn_differs_where_stops_overlap():
    assert (
        code_text.truncate_at_earliest("ab-bc", ("bc", "b-b")) == "a"
        and stops.truncate_at_stop("ab-bc", ("bc", "b-b")) == "ab-"
    )


# HumanEval


def test_humaneval_prompts():
    docs = Inputs(docs=lambda name: [DOC] if name == "humaneval" else [])
    stripped, plain = (humaneval.problems(docs, form)[0] for form in humaneval.PROMPTS)
    assert stripped.prompt == DOC["prompt"].strip() and plain.prompt == DOC["prompt"]
    assert (
        humaneval.extract(stripped, "\n    return 1\nprint(1)")
        == DOC["prompt"].strip() + "\n    return 1"
    )
    assert humaneval.extract(plain, "    return 1\n\ndef g():") == DOC["prompt"] + "    return 1\n"
    with pytest.raises(UserError, match="unknown form"):
        humaneval.problems(docs, "x")


def test_a_humaneval_completion_is_judged():
    isolated()
    problem = humaneval.problem(DOC, "humaneval-bigcode")
    texts = [
        "\n    return x + 1\nprint(f(1))",
        "\n    return floor(x) + 1",
        "\n    return x",
        " oops",
        "\n    pass",
    ]
    programs = [humaneval.program(problem, humaneval.extract(problem, text)) for text in texts]
    assert counted(programs) == [True, True, False, False, False]


def test_a_record_and_its_summary():
    problem = humaneval.problem(DOC, "humaneval-bigcode")
    record = humaneval.TASK.method.record(
        problem, ["\n    return 1\nif", "\n    return 1\nif", "x"], [PASSED, FAILED, FAILED]
    )
    digest = hashlib.sha256(problem.prompt.encode()).hexdigest()[:16]
    assert (record["id"], record["cluster"], record["prompt_sha256"]) == (
        "HumanEval/x",
        "HumanEval/x",
        digest,
    )
    assert (record["n"], record["c"], record["unique"]) == (3, 1, 2)
    assert (record["unique_passed"], record["unique_failed"]) == (1, 2)
    sample = record["samples"][0]
    assert (
        sample["text"] == "\n    return 1\nif"
        and sample["code"].endswith("\n    return 1")
        and sample["passed"]
    )
    other = humaneval.TASK.method.record(problem, ["a", "b"], [PASSED, PASSED]) | {
        "id": "2",
        "cluster": "2",
    }
    found = humaneval.TASK.measure([each | {"ended": 0.0} for each in (record, other)])
    assert {"pass@1", "pass@2", "unique", "unique_passed", "unique_failed"} < set(
        found
    ) and "pass@4" not in found
    assert found["pass@1"].estimate.mean == pytest.approx((1 / 3 + 1) / 2)
    with pytest.raises(ValueError, match="argument"):
        humaneval.TASK.method.record(problem, ["a"], [])


def solved(problems, body):
    return [humaneval.program(p, p.head + (p.solution if body is None else body)) for p in problems]


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_canonical_solutions_pass_and_empty_bodies_fail(step):
    """Every 17th problem and those whose tests use helpers of the prompt or random numbers; slow:
    all 164."""
    problems = [humaneval.problem(doc, "humaneval-lm-eval") for doc in fetched("humaneval")]
    chosen = [p for i, p in enumerate(problems) if i % step == 0 or i in (32, 33, 38, 50, 53)]
    assert len(chosen) == 164 if step == 1 else len(chosen) >= 10
    assert [
        p.id for p, ok in zip(chosen, counted(solved(chosen, None)), strict=True) if not ok
    ] == []
    assert [
        p.id for p, ok in zip(chosen, counted(solved(chosen, "    pass")), strict=True) if ok
    ] == []


# MBPP


def test_mbpp_prompts_and_entry_points():
    docs = Inputs(docs=lambda name: [MBPP_DOC] if name == "mbpp-test" else [])
    shown, short = (mbpp.problems(docs, form)[0] for form in mbpp.PROMPTS)
    assert short.prompt == '"""\nSum.\nassert sum(1, 2) == 3\n"""\n'
    assert shown.prompt.count("[BEGIN]\n") == 4 and shown.prompt.count("[DONE]\n\n") == 3
    assert shown.prompt.endswith("\n\n" + "\n".join(MBPP_DOC["test_list"]) + "\n[BEGIN]\n")
    assert shown.entry_points == ("root", "sum") and shown.id == "7"
    with pytest.raises(UserError, match="unknown form"):
        mbpp.problems(docs, "x")


def test_an_mbpp_completion_is_judged():
    isolated()
    problem = mbpp.problem(MBPP_DOC, "mbpp-lm-eval")
    texts = [
        MBPP_DOC["code"] + "\n[DONE]\nx = (",
        "NAME = 1\nsum = max",
        "def sum(a, b):\n    return a + b",
        "",
    ]
    programs = [mbpp.program(problem, mbpp.extract(problem, text)) for text in texts]
    assert counted(programs) == [True, False, False, False]
    record = mbpp.TASK.method.record(problem, texts, [PASSED, *[FAILED] * 3])
    assert record["c"] == 1 and record["samples"][0]["code"] == MBPP_DOC["code"] + "\n"
    assert mbpp.TASK.measure([record | {"ended": 0.0}])["pass@4"].estimate.mean == 1


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_solutions_pass(step):
    """Every 17th problem and the odd ones: `sum` redefined (126), code before the tests (367);
    slow: all 500."""
    problems = [mbpp.problem(doc, "mbpp-lm-eval") for doc in fetched("mbpp-test")]
    chosen = [p for i, p in enumerate(problems) if i % step == 0 or p.id in ("126", "367")]
    assert len(chosen) == 500 if step == 1 else len(chosen) >= 30
    assert [
        p.id
        for p, ok in zip(
            chosen, counted([mbpp.program(p, p.solution) for p in chosen]), strict=True
        )
        if not ok
    ] == []
    some = chosen[:10]
    assert [
        p.id for p, ok in zip(some, counted([mbpp.program(p, "") for p in some]), strict=True) if ok
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "    return floor(x) + 1",
        "     return floor(x) + 1",  # after a space, which the plain format puts before an answer
        "Here it is:\n```python\ndef f(x):\n    return floor(x) + 1\n```\nIt adds one.",
        "def f(x):\n    return floor(x) + 1",
        "```\n    y = floor(x)\n    return y + 1\n```",
    ],
)
def test_an_answer_in_the_training_format_is_body_or_function(text):
    isolated()
    inputs = Inputs(docs=lambda name: [DOC], template=TEMPLATES["alpaca"])
    (problem,) = humaneval.TRAINED.items(inputs)
    assert problem.prompt.endswith(
        f"### Instruction:\n{DOC['prompt'].rstrip()}\n\n\n### Response:\n"
    )
    code = humaneval.TRAINED.method.extract(problem, text)
    assert counted(
        [humaneval.program(problem, code), humaneval.program(problem, code.replace("1", "2"))]
    ) == [
        True,
        False,
    ]


def test_what_is_no_python_is_told_apart_from_what_is_wrong():
    problem = humaneval.problem(DOC, "humaneval-bigcode")
    verdicts = [
        PASSED,
        FAILED,
        dataclasses.replace(FAILED, reason="exception: IndentationError unexpected indent"),
    ]
    record = humaneval.TASK.method.record(problem, ["a", "b", "c"], verdicts)
    found = humaneval.TASK.measure([record | {"ended": 0.0}])
    assert found["format_compliance"].estimate.mean == pytest.approx(2 / 3)
    assert found["accuracy_given_valid_format"].estimate.mean == 0.5
    assert found["accuracy_missing_wrong"].estimate.mean == pytest.approx(1 / 3)
    assert found["accuracy_missing_right"].estimate.mean == pytest.approx(2 / 3)


# A whole evaluation


ANSWERS = ("\n    return floor(x) + 1\ndef more():", "\n    return 0")  # right, wrong


def settings(tmp_path, done, samples=3, texts=ANSWERS):
    """(run, its calls): a model whose samples are these texts in turn, up to `done` calls."""
    calls = []

    def generate(prompts, *, max_new_tokens, stop, example_ids, temperature, top_p):
        assert len(calls) < done, "stopped"
        calls.append((list(example_ids), temperature, top_p, tuple(stop)))
        return [texts[i % MAX_SAMPLES % len(texts)] for i in example_ids]

    tokenizer = byte_tokenizer()
    model = Scorer("m", tokenizer, lambda rows: (rows["tokens"], rows["tokens"]), generate)
    shapes = Settings(
        rows=1, length=64, generate_rows=2, max_new_tokens=16, window=512, sampling=Sampling(samples, 0.5, 0.9)
    )  # fmt: skip
    docs = [DOC | {"task_id": f"HumanEval/{i}"} for i in range(2)]
    inputs = Inputs(docs=lambda name: docs)
    evaluation = Evaluation(humaneval.TASK, model, inputs, shapes)
    return lambda: evaluation.run(tmp_path), calls


def test_programs_are_drawn_run_and_resumed(tmp_path):
    isolated()
    run, calls = settings(tmp_path, done=3)
    with pytest.raises(AssertionError, match="stopped"):
        run()
    assert len(records.read(tmp_path / "humaneval.jsonl")[1]) == 1, "the first problem is kept"
    run, calls = settings(tmp_path, done=9)
    result = run()
    first, second = records.read(tmp_path / "humaneval.jsonl")[1]
    assert calls == [
        ([MAX_SAMPLES, MAX_SAMPLES + 1], 0.5, 0.9, calls[0][3]),
        ([MAX_SAMPLES + 2], *calls[0][1:]),
    ]
    assert "\ndef" in calls[0][3] and first["n"] == 3 and first["c"] == 2
    assert [s["passed"] for s in second["samples"]] == [True, False, True] and second["unique"] == 2
    assert result.metrics["pass@1"].mean == pytest.approx(2 / 3) and result.settings["samples"] == 3


ODD = {
    "\n    raise ValueError('\\ud83d')": r"exception: ValueError \\ud83d",
    "\n    raise ValueError('\\ud83d\\x1b[2J\\0' * 10**6)": r"exception: ValueError \\ud83d\\x1b",
    "\n    raise type('A' * 3000000, (Exception,), {})": "exception: A{100}$",
    "\n    return '\\ud83d' * 10**5": "assertion",
    "\n    import os, sys\n    os.close(1)\n    sys.stderr.close()\n    raise KeyError": "exception: Key",
    "\n    import os\n    os.closerange(0, 99)": "exited early",
    "\n    print('\\ud83d')": "exception: UnicodeEncodeError",
    "\n    import sys\n    sys.stdout.buffer.write(b'\\xed\\xa0\\xbd')\n    return 0": "assertion",
    "\n    raise StopIteration": "exception: StopIteration",
}


def test_odd_answers_are_failed_programs_and_no_end_of_an_evaluation(tmp_path):
    isolated()
    run, _ = settings(tmp_path, done=99, samples=len(ODD), texts=tuple(ODD))
    result = run()
    assert result.metrics["pass@1"].mean == 0
    for record in records.read(tmp_path / "humaneval.jsonl")[1]:
        assert len(record["samples"]) == len(ODD)
        for sample, reason in zip(record["samples"], ODD.values(), strict=True):
            assert re.match(reason, sample["reason"]) and sample["reason"].isprintable(), sample
    again, calls = settings(tmp_path, done=0, samples=len(ODD), texts=tuple(ODD))
    assert again().metrics["pass@1"].mean == 0 and calls == []
