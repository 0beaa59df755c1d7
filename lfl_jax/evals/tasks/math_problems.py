"""MATH: competition problems answered by a generated solution (Hendrycks et al., arXiv
2103.03874)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import formulas, math_answers, minerva_answers, numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Record, Task, common_fields
from lfl_jax.evals.tasks.gsm8k import Problem

STOP = ("Problem:",)
# (problem, solution): the four shots of Minerva (Lewkowycz et al., arXiv 2206.14858, appendix D).
SHOTS = (
    (
        r"Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.",
        r"The expressions inside each square root must be non-negative. Therefore, $x-2 \ge 0$, so"
        r" $x\ge2$,"
        r" and $5 - x \ge 0$, so $x \le 5$. Also, the denominator cannot be equal to zero, so"
        r" $5-x>0$, which"
        r" gives $x<5$. Therefore, the domain of the expression is $\boxed{[2,5)}$."
        "\n"
        r"Final Answer: The final answer is $[2,5)$. I hope it is correct.",
    ),
    (
        r"If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det (\mathbf{A}"
        r" \mathbf{B}).$",
        r"We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = (2)(12)"
        r" ="
        r" \boxed{24}.$"
        "\n"
        r"Final Answer: The final answer is $24$. I hope it is correct.",
    ),
    (
        r"Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights"
        r" instead, how"
        r" many times must Terrell lift them in order to lift the same total weight?",
        r"If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot"
        r" 12\cdot20=480$ pounds of"
        r" weight.  If he lifts two 15-pound weights instead for $n$ times, he will lift a total of"
        r" $2\cdot15\cdot n=30n$ pounds of weight.  Equating this to 480 pounds, we can solve for"
        r" $n$:"
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


def problems(inputs: Inputs, prompt: Callable[[str], str], shots: str = "") -> list[Problem]:
    """The test split, every problem its own cluster, its group the subject; UserError for one
    without an answer."""
    made, head = [], inputs.preamble(shots)
    for i, doc in enumerate(inputs.docs("math-test")):
        gold = math_answers.boxed(doc["solution"])
        if gold == math_answers.INVALID:
            raise UserError(
                f"MATH problem {i} has no \\boxed answer in its solution: {doc['solution'][:200]!r}"
            )
        group = str(doc.get("subject") or doc.get("type") or "")
        made.append(
            Problem(str(i), str(i), head + prompt(doc["problem"]), gold, (group,) if group else ())
        )
    return made


def zero_shot(problem: str) -> str:
    """The prompt of lm-evaluation-harness's hendrycks_math."""
    return f"Problem: {problem}\nAnswer:"


def minerva(problem: str) -> str:
    """The prompt of Minerva and of lm-evaluation-harness's minerva_math, after its four worked
    problems."""
    return f"Problem:\n{problem}\n\nSolution:"


MINERVA_SHOTS = "".join(f"{minerva(shot)} {solution}\n\n" for shot, solution in SHOTS)


def record(problem: Problem, text: str, extract: Callable[[str], str]) -> Record:
    """The generated text, and whether its answer by the harness's rule (`extract`) and its last
    \\boxed are right."""
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
    """`solution`: the whole gold text, out of which math_verify takes what it compares with."""

    solution: str = ""


def solved(inputs: Inputs) -> list[Solved]:
    """The problems of Minerva's prompt with their solutions."""
    pairs = zip(problems(inputs, minerva, MINERVA_SHOTS), inputs.docs("math-test"), strict=True)
    return [Solved(**vars(problem), solution=doc["solution"]) for problem, doc in pairs]


def record_formulas(problem: Solved, text: str) -> Record:
    """`record`, and the harness's two verdicts; trouble: {verdict: why it was not worked out},
    counted as wrong."""
    compare = formulas.shared()
    answer, gold = (
        minerva_answers.normal(each) for each in (math_answers.sentence(text), problem.gold)
    )
    verdicts = {
        "exact_formula": compare.equal(answer, gold),
        "math_verify": compare.verify(text, problem.solution),
    }
    return (
        record(problem, text, math_answers.final)
        | {"formula": answer}
        | {name: float(verdict.equal) for name, verdict in verdicts.items()}
        | {
            "trouble": {
                name: verdict.trouble for name, verdict in verdicts.items() if verdict.trouble
            }
        }
    )


def compared_by(inputs: Inputs) -> dict[str, Any]:
    """Verdicts change with the libraries' versions."""
    return {"libraries": formulas.versions()}


def trouble(record: Record) -> float:
    """1 where a formula could not be worked out, which counts as wrong."""
    return float(bool(record["trouble"]))


EXACT = Metric("exact_match", "exact", "harness's answer", chance=0.0)
BOXED = Metric("exact_match_boxed", "exact_boxed", "boxed answer", chance=0.0)
# Format compliance is of the answer that the prompt asks for: a box, or the last sentence of the
# shots.
METRICS = (BOXED, replace(EXACT, in_table=False), *numbers.format_metrics("boxed", "exact_boxed"))
MINERVA_METRICS = (
    EXACT,
    replace(BOXED, in_table=False),
    *numbers.format_metrics("boxed", "exact_boxed"),
)
FORMULA_METRICS = (
    Metric("exact_match", "exact_formula", "sympy", chance=0.0),
    Metric("math_verify", "math_verify", "math_verify", chance=0.0),
    Metric("exact_match_string", "exact", "strings", chance=0.0),
    replace(BOXED, in_table=False),
    *numbers.format_metrics("answer", "exact_formula"),
    Metric(
        "trouble",
        trouble,
        "formulas not worked out",
        "format",
        higher_is_better=False,
        in_table=False,
    ),
)


def task(
    name: str,
    label: str,
    metrics: tuple[Metric, ...],
    prompt: Callable[[str], str],
    extract: Callable[[str], str],
    shots: str = "",
) -> Task:
    """MATH with one of the prompts, after these shots, and the rule for answers that goes with
    it."""
    items = functools.partial(problems, prompt=prompt, shots=shots)
    method = Generate(STOP, functools.partial(record, extract=extract))
    return Task(name, 2, label, items, method, metrics)


TASK = task("math", "MATH", METRICS, zero_shot, math_answers.between_dollars)
MINERVA = task(
    "math_minerva",
    "MATH after 4 shots",
    MINERVA_METRICS,
    minerva,
    math_answers.final,
    MINERVA_SHOTS,
)
# The same prompts and generated texts, graded as the harness's minerva_math grades them; needs the
# extra `math`.
LM_EVAL = Task(
    "math_minerva_lm_eval",
    1,
    "MATH after 4 shots",
    solved,
    Generate(STOP, record_formulas),
    FORMULA_METRICS,
    compared_by,
    check=formulas.check,
)
