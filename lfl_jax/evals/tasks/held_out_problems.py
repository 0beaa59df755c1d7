"""Held-out problems of the training source, answered by a generated solution.

Items are examples of the source's test split. With the built-in word problems the first is:

    Question: Daniela collects 20 cards on Monday and 18 on Tuesday. How many cards is that in
    total?
    Answer: 20 + 18 = 38
    #### 38

The prompt ends at "Answer:". `source_test` asks in the prompt format of training,
`source_test_plain` in the plain one above, and `source_test_shots` in the plain one after
config.eval.base_shots training examples: what prompting alone gains the base, without training.

Metric: exact_match compares the number after "####" with the reference's, as `gsm8k` does. It is
reported for each level of difficulty, too, and for templates of problems that training has and has
not seen. Skipped for a source most of whose references have no such number.
"""

import functools
from collections.abc import Callable, Sequence

from lfl_jax.data.examples import Example, interleaved
from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.task import Generate, Inputs, Task
from lfl_jax.evals.tasks import gsm8k
from lfl_jax.evals.tasks.gsm8k import Problem
from lfl_jax.text.chat import TEMPLATES, Template

# "Question: ...\nAnswer:", which a base model continues without having been trained on a format.
PLAIN_TEMPLATE = TEMPLATES["plain"]


def problems(
    inputs: Inputs, template: Template | None = None, few_shot: bool = False
) -> list[Problem]:
    """The problems in a prompt format, by default that of training.

    Splits alternate, so that a limit takes some of each. few_shot: after the run's few-shot
    examples, in the same format; UserError when there are none.
    """
    template = template or inputs.template
    shots = inputs.few_shot_examples() if few_shot else ()
    if few_shot and not shots:
        raise UserError("source_test_shots needs config.eval.base_shots of at least 1")
    solved = ["".join(template.prompt_and_response(shot.conversation)) for shot in shots]
    worked = inputs.preamble("".join(f"{text}\n\n" for text in solved))
    preamble = worked if few_shot else inputs.worked()

    # Ids are unique within a split only, so the split is part of them.
    splits = []
    for split, examples in inputs.problems.items():
        splits.append([_problem(split, example, template, preamble) for example in examples])
    return interleaved(splits)


def _problem(split: str, example: Example, template: Template, preamble: str) -> Problem:
    # All turns of a conversation but the last answer, which is the one to generate.
    turns = (*example.conversation[:-1], ("assistant", ""))
    prompt, _ = template.prompt_and_response(turns)
    groups = tuple(group for group in (split, example.group) if group)
    name = f"{split}/{example.id}"
    return Problem(name, example.cluster, preamble + prompt, example.response, groups)


# How groups of the built-in sources read in tables; others are called by their names.
GROUPS = {
    "level_1": "level 1, one step",
    "level_2": "level 2, two steps",
    "level_3": "level 3, up to six steps",
    "test_seen": "templates seen",
    "test_unseen": "templates not seen",
}
EXACT = Metric("exact_match", "exact_strict", "exact", chance=0.0, by="groups", group_labels=GROUPS)


def skip_reason(inputs: Inputs) -> str:
    """Says so where most references have no "#### number" to compare with."""
    # Half is enough: the others count as wrong, for the base and the finetuned model alike.
    references = [example.response for examples in inputs.problems.values() for example in examples]
    graded = sum(numbers.strict(reference) != numbers.INVALID for reference in references)
    if 2 * graded >= len(references):
        return ""
    return (
        f"{graded} of {len(references)} held-out answers have a number after ####, which it"
        " compares"
    )


def task(
    name: str,
    label: str,
    items: Callable[[Inputs], Sequence[Problem]],
    *,
    takes_shots: bool = False,
) -> Task:
    """The evaluation with the problems asked in one way."""
    return Task(
        name=name,
        version=3,
        label=label,
        items=items,
        method=Generate(numbers.STOP, gsm8k.record),
        metrics=(EXACT, *numbers.format_metrics()),
        interleaved=True,
        reads_source=True,
        takes_shots=takes_shots,
        skip_reason=skip_reason,
    )


# What training gains is TASK's change; SHOTS on the base says what prompting alone gains.
in_plain_template = functools.partial(problems, template=PLAIN_TEMPLATE)
after_shots = functools.partial(problems, template=PLAIN_TEMPLATE, few_shot=True)
TASK = task("source_test", "held-out problems", problems, takes_shots=True)
PLAIN = task("source_test_plain", "held-out problems, plain prompt", in_plain_template)
SHOTS = task("source_test_shots", "held-out problems, after worked examples", after_shots)
