r"""MATH: competition problems answered by a generated solution.

Hendrycks et al. 2021, arXiv 2103.03874. Data: test split, 5000 problems of seven subjects, MIT
licence. The first of them, with the end of its gold solution:

    Problem: How many vertical asymptotes does the graph of $y=\frac{2}{x^2+x-6}$ have?
    Answer: ... Therefore, the graph has $\boxed{2}$ vertical asymptotes.

The gold answer is the text in the last \boxed. Three tasks differ in prompt and grading:
- `math` is lm-evaluation-harness's hendrycks_math: the prompt above. exact_match_boxed (main)
  compares the last \boxed of the text, exact_match the text between its dollar signs, both as
  strings after normalisation (`grading.math_answers`).
- `math_minerva` asks after four solved problems, those of Minerva (Lewkowycz et al. 2022, arXiv
  2206.14858, appendix D), which end "Final Answer: The final answer is $N$. I hope it is correct.".
  exact_match (main) compares the answer in that sentence, as a string.
- `math_minerva_lm_eval` has the same prompts, graded as the harness's minerva_math grades them:
  exact_match (main) by sympy, math_verify by the library of that name (`grading.formulas`). It
  needs the extra `math`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import formulas, math_answers, minerva_answers, numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields
from lfl_jax.evals.tasks.gsm8k import Problem

# A model that goes on writes the next problem itself.
STOP = ("Problem:",)
# (problem, solution) of Minerva, as its appendix D has them.
SHOTS = (
    (
        r"Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.",
        r"The expressions inside each square root must be non-negative. Therefore, $x-2 \ge "
        r"0$, so $x\ge2$, and $5 - x \ge 0$, so $x \le 5$. Also, the denominator cannot be "
        r"equal to zero, so $5-x>0$, which gives $x<5$. Therefore, the domain of the "
        r"expression is $\boxed{[2,5)}$."
        "\n"
        r"Final Answer: The final answer is $[2,5)$. I hope it is correct.",
    ),
    (
        r"If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det (\mathbf{A} "
        r"\mathbf{B}).$",
        r"We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = "
        r"(2)(12) = \boxed{24}.$"
        "\n"
        r"Final Answer: The final answer is $24$. I hope it is correct.",
    ),
    (
        r"Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound "
        r"weights instead, how many times must Terrell lift them in order to lift the same "
        r"total weight?",
        r"If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot "
        r"12\cdot20=480$ pounds of weight.  If he lifts two 15-pound weights instead for $n$ "
        r"times, he will lift a total of $2\cdot15\cdot n=30n$ pounds of weight.  Equating "
        r"this to 480 pounds, we can solve for $n$:"
        "\n"
        r"\begin{align*}"
        "\n"
        r"30n&=480\\"
        "\n"
        r"\Rightarrow\qquad n&=480/30=\boxed{16}"
        "\n"
        r"\end{align*}"
        "\n"
        r"Final Answer: The final answer is $16$. I hope it is correct.",
    ),
    (
        r"If the system of equations"
        "\n"
        "\n"
        r"\begin{align*}"
        "\n"
        r"6x-4y&=a,\\"
        "\n"
        r"6y-9x &=b."
        "\n"
        r"\end{align*}has a solution $(x, y)$ where $x$ and $y$ are both nonzero,"
        "\n"
        r"find $\frac{a}{b},$ assuming $b$ is nonzero.",
        r"If we multiply the first equation by $-\frac{3}{2}$, we obtain"
        "\n"
        "\n"
        r"$$6y-9x=-\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have"
        "\n"
        "\n"
        r"$$-\frac{3}{2}a=b\Rightarrow\frac{a}{b}=\boxed{-\frac{2}{3}}.$$"
        "\n"
        r"Final Answer: The final answer is $-\frac{2}{3}$. I hope it is correct.",
    ),
)


def problems(inputs: Inputs, prompt: Callable[[str], str], few_shot: str = "") -> list[Problem]:
    """The test split; every problem is its own cluster, its group is the subject.

    Raises UserError for a problem without an answer.
    """
    preamble = inputs.preamble(few_shot)
    of_split = []
    for i, doc in enumerate(inputs.docs("math-test")):
        gold = math_answers.boxed(doc["solution"])
        if gold == math_answers.INVALID:
            raise UserError(
                f"MATH problem {i} has no \\boxed answer in its solution: {doc['solution'][:200]!r}"
            )
        # MATH is published with either name of this column.
        subject = str(doc.get("subject") or doc.get("type") or "")
        groups = (subject,) if subject else ()
        of_split.append(Problem(str(i), str(i), preamble + prompt(doc["problem"]), gold, groups))
    return of_split


def zero_shot(problem: str) -> str:
    """The prompt of lm-evaluation-harness's hendrycks_math."""
    return f"Problem: {problem}\nAnswer:"


def minerva(problem: str) -> str:
    """The prompt of Minerva and of lm-evaluation-harness's minerva_math."""
    return f"Problem:\n{problem}\n\nSolution:"


MINERVA_SHOTS = "".join(f"{minerva(problem)} {solution}\n\n" for problem, solution in SHOTS)


def record(problem: Problem, text: str, extract: Callable[[str], str]) -> Record:
    """The generated text, and whether two answers in it are right.

    One is the harness's (`extract`), the other the last \\boxed.
    """
    # Both are recorded, as a model may box its answer whatever the prompt shows.
    answer, box = extract(text).strip(), math_answers.boxed(text)
    return common_fields(problem) | {
        "groups": list(problem.groups),
        "text": text,
        "answer": answer,
        "boxed": box,
        "gold": problem.gold,
        "exact": float(math_answers.equivalent(answer, problem.gold)),
        "exact_boxed": float(math_answers.equivalent(box, problem.gold)),
    }


@dataclass(frozen=True)
class Solved(Problem):
    """`solution`: the whole gold text, in which math_verify finds what it compares with."""

    solution: str = ""


def solved(inputs: Inputs) -> list[Solved]:
    """The problems of Minerva's prompt with their solutions."""
    pairs = zip(problems(inputs, minerva, MINERVA_SHOTS), inputs.docs("math-test"), strict=True)
    return [Solved(**vars(problem), solution=doc["solution"]) for problem, doc in pairs]


def record_formulas(problem: Solved, text: str) -> Record:
    """`record`, and the harness's two verdicts on the formulas.

    trouble: {verdict: why it was not reached}; such an answer counts as wrong.
    """
    # A process of its own compares: sympy may take all time or memory on what a model wrote.
    compare = formulas.shared()
    answer = minerva_answers.normal(math_answers.sentence(text))
    verdicts = {
        "exact_formula": compare.equal(answer, minerva_answers.normal(problem.gold)),
        "math_verify": compare.verify(text, problem.solution),
    }
    equal = {name: float(verdict.equal) for name, verdict in verdicts.items()}
    trouble = {name: verdict.trouble for name, verdict in verdicts.items() if verdict.trouble}
    by_strings = record(problem, text, math_answers.final)
    return by_strings | {"formula": answer} | equal | {"trouble": trouble}


def details(inputs: Inputs) -> dict[str, Any]:
    """Versions of the libraries, which change verdicts."""
    return {"libraries": formulas.versions()}


def had_trouble(record: Record) -> float:
    """1 where a verdict was not reached, which counts as wrong."""
    return float(bool(record["trouble"]))


EXACT = Metric("exact_match", "exact", "harness's answer", chance=0.0)
BOXED = Metric("exact_match_boxed", "exact_boxed", "boxed answer", chance=0.0)
# A valid format is that of the answer which counts: a box, or the last sentence of the examples.
BOXED_FORMAT = numbers.format_metrics("boxed", "exact_boxed")
METRICS = (BOXED, replace(EXACT, in_table=False), *BOXED_FORMAT)
MINERVA_METRICS = (EXACT, replace(BOXED, in_table=False), *BOXED_FORMAT)
# No score: how many verdicts are wrong only because they were not reached.
NOT_WORKED_OUT = Metric(
    name="trouble",
    field=had_trouble,
    label="formulas not worked out",
    section="format",
    higher_is_better=False,
    in_table=False,
)
# The same answers by three comparisons; equal strings are the strictest.
FORMULA_METRICS = (
    Metric("exact_match", "exact_formula", "sympy", chance=0.0),
    Metric("math_verify", "math_verify", "math_verify", chance=0.0),
    Metric("exact_match_string", "exact", "strings", chance=0.0),
    replace(BOXED, in_table=False),
    *numbers.format_metrics("answer", "exact_formula"),
    NOT_WORKED_OUT,
)

TASK = Task(
    name="math",
    version=2,
    label="MATH",
    items=functools.partial(problems, prompt=zero_shot),
    method=Generate(STOP, functools.partial(record, extract=math_answers.between_dollars)),
    metrics=METRICS,
)
MINERVA = Task(
    name="math_minerva",
    version=2,
    label="MATH after 4 shots",
    items=functools.partial(problems, prompt=minerva, few_shot=MINERVA_SHOTS),
    method=Generate(STOP, functools.partial(record, extract=math_answers.final)),
    metrics=MINERVA_METRICS,
)
LM_EVAL = Task(
    name="math_minerva_lm_eval",
    version=1,
    label="MATH after 4 shots",
    items=solved,
    method=Generate(STOP, record_formulas),
    metrics=FORMULA_METRICS,
    details=details,
    check=formulas.check,
)
