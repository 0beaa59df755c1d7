"""Chain-of-thought GSM8K: prompts and the answer's form; and what of a score is due to form."""

import pytest

from lfl_jax import assets
from lfl_jax.evals import records
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import gsm8k, gsm8k_cot


def test_prompt_after_worked_examples(inputs):
    problem = gsm8k_cot.TASK.items(inputs)[0]
    head = "Q: One and one?\nA: It is 2. The answer is 2.\n\nQ: Nine less 2?\nA: It is $7. The answer is 7.\n\nQ: "
    assert problem.prompt.startswith(head)
    assert problem.prompt.endswith("\nA:")
    assert problem.gold == inputs.docs("gsm8k-test")[0]["answer"]


def test_prompt_step_by_step(inputs):
    problem = gsm8k_cot.ZERO_SHOT.items(inputs)[0]
    question = inputs.docs("gsm8k-test")[0]["question"]
    assert problem.prompt == f"Q: {question}\nA: Let's think step by step."
    assert (
        gsm8k_cot.ZERO_SHOT.method.stop
        == gsm8k_cot.TASK.method.stop
        == ("Q:", "</s>", "<|im_end|>")
    )


@pytest.mark.parametrize(
    ("text", "strict", "exact"),
    [
        (" 3 + 3 is 6. The answer is 6.", "6", 1.0),
        (" The answer is 6. ", "6.", 1.0),  # a last dot is the number's when a character follows it
        (" The answer is 6", numbers.INVALID, 0.0),
        # the character after the number is not the end of the line
        (" The answer is 16\n", "1", 0.0),
        (" The answer is $6.", numbers.INVALID, 0.0),
        ("#### 6", numbers.INVALID, 0.0),
    ],
)
def test_strict_answer(text, strict, exact):
    record = gsm8k_cot.TASK.method.record(gsm8k.Problem("0", "0", "p", "So.\n#### 6"), text)
    assert (record["strict"], record["exact_strict"]) == (strict, exact)


def test_format_and_accuracy_given_it():
    problem = gsm8k.Problem("0", "0", "p", "So.\n#### 6")
    made = [gsm8k.record(problem, text) for text in ("#### 6", "#### 7", "6", "It is 6.")]
    made = [record | {"id": str(i), "ended": 1.0} for i, record in enumerate(made)]
    means = {name: each.estimate.mean for name, each in gsm8k.TASK.measure(made).items()}
    assert (means["format_compliance"], means["accuracy_given_valid_format"]) == (0.5, 0.5)
    assert means["exact_match_strict"] == 0.25
    none = gsm8k.TASK.measure(made[2:])
    assert (
        none["format_compliance"].estimate.mean == 0.0 and "accuracy_given_valid_format" not in none
    )


def test_real_shots():
    """The eight samples of lm-evaluation-harness 0.4.13's gsm8k_cot, as its prompt shows them."""
    if not assets.is_cached("gsm8k-test"):
        pytest.skip("gsm8k-test is not fetched: python -m lfl_jax.fetch gsm8k-test")
    prompt = gsm8k_cot.TASK.items(Inputs())[0].prompt
    assert prompt.count("\n\nQ: ") == 8
    assert records.digest(prompt.rpartition("Q: ")[0]) == "048d826ed44bc0a9"
