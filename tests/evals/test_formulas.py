"""Formulas compared as lm-evaluation-harness compares them, whatever a model writes."""

import resource
import signal
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.evals.grading import formulas, formulas_child, math_answers, minerva_answers
from lfl_jax.evals.grading.formulas import Comparer, Comparison
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import math_problems

for needed in ("sympy", "antlr4", "math_verify"):
    pytest.importorskip(needed, reason="needs the extra lfl_jax[math]")

# Answers of the kinds that MATH has.
GOLDS = (
    *(
        "2",
        "-7",
        "0.5",
        "100{,}000",
        r"\frac{1}{2}",
        r"-\frac{2}{3}",
        r"\dfrac{9}{7}",
        r"\frac 59",
        r"\frac{x^2}{3}",
    ),
    *(
        "[2,5)",
        r"(-\infty, 3] \cup [5, \infty)",
        "(1,-2)",
        r"\{1, 2\}",
        "3, 5, 7",
        r"\left( \frac{3}{5}, 2 \right]",
    ),
    *(
        r"2\sqrt{3}",
        r"\sqrt[3]{4}",
        r"\frac{1+\sqrt{5}}{2}",
        r"6\pi",
        "x^2+2x+1",
        "2(x+1)(x-3)",
        r"y = 3x - 4",
        "2^{10}",
    ),
    *(
        r"\$18.90",
        r"45^\circ",
        r"12\text{ cm}",
        r"50\%",
        r"\text{Evelyn}",
        r"\text{(C)}",
        "3 + 4i",
        r"10\%",
        "2n+1",
    ),
    *(
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        r"\sin x",
        r"\log_2 8",
        "11_2",
        r"3!",
        "x \\in [1,2]",
        "1,2,3",
    ),
)
# The same in another form, nearly the same, and something else.
CHANGES = (
    lambda g: g,
    lambda g: (
        g.replace(r"\dfrac", r"\frac").replace(r"\frac{1}{2}", "0.5").replace(r"\frac{", r"\dfrac{")
    ),
    lambda g: f" {g.replace(',', ', ').replace('+', ' + ')} ",
    lambda g: f"1 + {g} - 1",
    lambda g: f"x = {g} cm",
    lambda g: rf"\left({g}\right)",
    lambda g: f"{g} + 1",
)
# (answer, gold, whether the harness takes them for equal)
PAIRS = (
    (r"\frac12", "0.5", True),
    ("1+x", "x+1", True),
    (r"\dfrac{2}{4}", r"\frac{1}{2}", True),
    (r"(x+1)^2", "x^2+2x+1", True),
    (r"2\sqrt{3}", r"\sqrt{12}", True),
    (r"\sin^2 x+\cos^2 x", "1", True),
    ("[2,5)", "[2,5)", True),
    ("[2,5)", "[2,5]", False),
    ("(1,2)", "(2,1)", False),
    ("x-1", "x+1", False),
    ("0.333", r"\frac{1}{3}", False),
    ("", "", False),
    (r"\frac{", "1", False),
)


@pytest.fixture
def harness():
    return pytest.importorskip(
        "lm_eval.tasks.minerva_math.utils", reason="lm-eval is not installed", exc_type=ImportError
    )


@pytest.fixture
def comparer():
    """One that loses patience soon."""
    made = Comparer(seconds=1)
    yield made
    made.close()


def solution(gold: str) -> str:
    return rf"First $1+1=2$. Therefore the answer is $\boxed{{{gold}}}$."


def generated(answer: str) -> str:
    return f" We find it.\nFinal Answer: The final answer is ${answer}$. I hope it is correct."


@pytest.mark.parametrize(("answer", "gold", "same"), PAIRS)
def test_what_is_equal(answer, gold, same):
    assert formulas.shared().equal(answer, gold) == Comparison(same, "")


def agrees(harness, problem: str, worked: str, text: str) -> tuple[float, float]:
    """Both verdicts of our record and of the harness's own function are the same; returns them."""
    (item,) = math_problems.LM_EVAL.items(
        Inputs(docs=lambda name: [{"problem": problem, "solution": worked}])
    )
    record = math_problems.LM_EVAL.method.record(item, text)
    (doc,) = harness.process_docs(Rows([{"problem": problem, "solution": worked}]))
    theirs = harness.process_results(doc, [text])
    found = record["exact_formula"], record["math_verify"]
    assert found == (theirs["exact_match"], theirs["math_verify"]), (worked[-200:], text, record)
    assert not record["trouble"]
    return found


class Rows(list):
    """In the place of a Hugging Face dataset."""

    def map(self, function):
        return [function(row) for row in self]


def test_made_answers_are_graded_as_the_harness_does(harness):
    # 7 changes: every one comes up
    made = [(gold, change(gold)) for gold in GOLDS for change in CHANGES][::4]
    found = [agrees(harness, "?", solution(gold), generated(answer)) for gold, answer in made]
    assert {(0, 0), (0, 1), (1, 0), (1, 1)} == set(found)
    assert len(found) > 65 and sum(formula == 0 for formula, _ in found) > 7


def test_real_solutions_are_graded_as_the_harness_does(harness):
    """Each also with the solution of the next problem, and without the sentence that the answer is
    taken out of."""
    if not assets.is_cached("math-test"):
        pytest.skip("math-test is not fetched: python -m lfl_jax.fetch math-test")
    docs = readers.docs("math-test")[3::200]
    for doc, other in zip(docs, docs[1:] + docs[:1], strict=True):
        right = doc["solution"] + generated(math_answers.boxed(doc["solution"]))
        assert agrees(harness, doc["problem"], doc["solution"], right)[0] == 1
        wrong = other["solution"] + generated(math_answers.boxed(other["solution"]))
        agrees(harness, doc["problem"], doc["solution"], wrong)
        assert agrees(harness, doc["problem"], doc["solution"], doc["solution"])[0] == 0


PIECES = (
    *(
        r"\frac",
        r"\sqrt",
        "{",
        "}",
        "[3]",
        "1",
        "2",
        "12,345",
        "x",
        " ",
        "=",
        "$",
        ".",
        ",",
        r"\$",
        r"\ ",
        "an ",
        "a ",
        "\n",
    ),
    *(
        "left",
        "ft",
        r"\left",
        "cm",
        " cm",
        "cents",
        r"\text{",
        r"\text{and}",
        r"\text{m}",
        r"\textbf{",
        r"\overline{",
    ),
    *(
        r"\boxed{",
        "mbox",
        r"\dots",
        r"\ldots",
        r"^\circ",
        r"^{\circ}",
        r",\!",
        "{,}",
        r"\;",
        '"',
        "children",
        "tickets",
    ),
    *minerva_answers.UNITS,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_spellings_are_the_harness_s(text):
    harness = pytest.importorskip(
        "lm_eval.tasks.minerva_math.utils", reason="needs lm-eval", exc_type=ImportError
    )
    assert minerva_answers.normal(text) == harness.normalize_final_answer(text)


def test_a_formula_that_never_ends_is_given_up_and_the_next_one_is_answered(comparer):
    """2^10000000000 is worked out inside big-integer operations, between which a signal may or may
    not be seen."""
    verdict = comparer.equal("2^{10000000000}", "1")
    assert verdict in (Comparison(False, "timeout"), Comparison(False, "killed after 2 s"))
    assert comparer.equal("x+1", "1+x") == Comparison(True, "")
    child = comparer._process.pid
    assert comparer.equal("(1+x)^{5000}", "1") == Comparison(False, "timeout")
    assert comparer.equal("2", "2.0") == Comparison(True, "")
    assert comparer._process.pid == child, "a child that gives up by itself is kept"


def test_a_child_that_sees_no_signal_is_ended_and_another_started(comparer):
    assert comparer.equal("1", "1").equal
    child = comparer._process
    child.send_signal(signal.SIGSTOP)
    assert comparer.equal("1", "1") == Comparison(False, "killed after 2 s")
    assert child.returncode == -signal.SIGKILL
    assert comparer.equal("2", "2.0") == Comparison(True, "")
    comparer._process.kill()  # as the kernel does when memory runs out, between two questions
    comparer._process.wait()
    assert comparer.equal("2", "2.0") == Comparison(True, "")


def test_the_kernel_limits_the_child(comparer):
    assert comparer.verify("$2$", "$2.0$") == Comparison(True, "")
    child = comparer._process.pid
    assert resource.prlimit(child, resource.RLIMIT_AS)[0] == 2048 << 20
    assert 4 < resource.prlimit(child, resource.RLIMIT_CPU)[0] < 600


def test_lack_of_memory_is_said(monkeypatch):
    import sympy

    def simplify(difference):
        raise MemoryError

    monkeypatch.setattr(sympy, "simplify", simplify)
    assert formulas_child.equal("1", "2", 5) == (False, "memory")


def test_metrics_of_the_task(monkeypatch):
    """The harness's two under its names, ours of strings beside them, and what could not be worked
    out."""
    docs = [{"problem": "?", "solution": solution(each)} for each in (r"\frac{1}{2}", "2")]
    half, two = math_problems.LM_EVAL.items(Inputs(docs=lambda name: docs))
    made = [
        math_problems.LM_EVAL.method.record(half, generated("0.50")),
        math_problems.LM_EVAL.method.record(half, generated(r"\frac12")),
        math_problems.LM_EVAL.method.record(two, "It is $2$."),
    ]
    spinning = SimpleNamespace(
        equal=lambda *texts: Comparison(False, "killed after 6 s"), verify=formulas.shared().verify
    )
    monkeypatch.setattr(formulas, "shared", lambda: spinning)
    made.append(math_problems.LM_EVAL.method.record(two, generated("3")))
    assert [r["exact_formula"] for r in made] == [1.0, 1.0, 0.0, 0.0]
    assert [r["math_verify"] for r in made] == [1.0, 1.0, 1.0, 0.0]
    assert [r["exact"] for r in made] == [0.0, 1.0, 0.0, 0.0]
    assert [sorted(r["trouble"]) for r in made] == [[], [], [], ["exact_formula"]]
    found = math_problems.LM_EVAL.measure(
        [record | {"id": str(i), "ended": 0.0} for i, record in enumerate(made)]
    )
    assert {name: each.estimate.mean for name, each in found.items()} == {
        "exact_match": 0.5,
        "math_verify": 0.75,
        "exact_match_string": 0.25,
        "exact_match_boxed": 0.0,
        "format_compliance": 0.75,
        "accuracy_given_valid_format": pytest.approx(2 / 3),
        "accuracy_missing_wrong": 0.5,
        "accuracy_missing_right": 0.75,
        "trouble": 0.25,
        "emitted_eos": 0.0,
    }


def test_records_say_by_which_libraries():
    described = math_problems.LM_EVAL.details(Inputs())["libraries"]
    assert (
        described["antlr4-python3-runtime"].startswith("4.11")
        and {"sympy", "math-verify"} < described.keys()
    )
