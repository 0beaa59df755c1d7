"""Held-out problems of the training source: exact answers, also per level and for seen and unseen
templates.

They are asked as in training, in the plain format whatever the training's was, or in the plain
format after worked
training examples: what that makes of the base is what prompting alone buys.
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


def problems(
    inputs: Inputs, template: Template | None = None, few_shot: bool = False
) -> list[Problem]:
    """The problems in a format, by default the training's; splits in turns, so that the first n
    hold some of each.

    few_shot: after `inputs.few_shot_examples`, in the same format. Raises UserError when there are none.
    """
    template, shots = template or inputs.template, inputs.few_shot_examples() if few_shot else ()
    if few_shot and not shots:
        raise UserError("source_test_shots needs config.eval.base_shots of at least 1")
    solved = ["".join(template.prompt_and_response(e.conversation)) for e in shots]
    head = inputs.preamble("".join(f"{text}\n\n" for text in solved))
    make = functools.partial(_problem, template=template, head=head)
    splits = [
        [make(split, example) for example in examples]
        for split, examples in inputs.problems.items()
    ]
    return interleaved(splits)


def _problem(split: str, e: Example, template: Template, head: str) -> Problem:
    prompt, _ = template.prompt_and_response((*e.conversation[:-1], ("assistant", "")))
    prompt, groups = head + prompt, (split, e.group)
    return Problem(f"{split}/{e.id}", e.cluster, prompt, e.response, tuple(filter(None, groups)))


GROUPS = {
    "level_1": "level 1, one step",
    "level_2": "level 2, two steps",
    "level_3": "level 3, up to six steps",
    "test_seen": "templates seen",
    "test_unseen": "templates not seen",
}
METRICS = (
    # of the number after ####
    Metric("exact_match", "exact_strict", "exact", chance=0.0, by="groups", group_labels=GROUPS),
    *numbers.format_metrics(),
)


def skip_reason(inputs: Inputs) -> str:
    """Why exact answers cannot be told: most references have no "#### number" to compare with."""
    references = [example.response for examples in inputs.problems.values() for example in examples]
    graded = sum(numbers.strict(reference) != numbers.INVALID for reference in references)
    if 2 * graded >= len(references):
        return ""
    return f"{graded} of {len(references)} held-out answers have a number after ####, which it compares"


SOURCE = {"interleaved": True, "reads_source": True, "skip_reason": skip_reason}


def task(name: str, label: str, items: Callable[[Inputs], Sequence[Problem]]) -> Task:
    """The evaluation with the problems asked in one way."""
    return Task(name, 3, label, items, Generate(numbers.STOP, gsm8k.record), METRICS, **SOURCE)


PLAIN_TEMPLATE = TEMPLATES["plain"]
TASK = task("source_test", "held-out problems", problems)
PLAIN = task(
    "source_test_plain",
    "held-out problems, plain prompt",
    functools.partial(problems, template=PLAIN_TEMPLATE),
)
SHOTS = task(
    "source_test_shots",
    "held-out problems, after worked examples",
    functools.partial(problems, template=PLAIN_TEMPLATE, few_shot=True),
)
