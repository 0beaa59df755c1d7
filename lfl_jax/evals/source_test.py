"""Held-out problems of the training source: exact answers, also per level and for seen and unseen templates.

They are asked as in training, in the plain format whatever the training's was, or in the plain format after worked
training examples: what that makes of the base is what prompting alone buys.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals import answers, gsm8k, stats
from lfl_jax.evals.base import Generation, Inputs, Record, Summary
from lfl_jax.evals.gsm8k import Problem
from lfl_jax.text.chat import TEMPLATES, Template


def problems(inputs: Inputs, template: Template | None = None, worked: bool = False) -> list[Problem]:
    """The problems in a format, by default the training's; splits in turns, so that the first n hold some of each.

    worked: after `inputs.worked`, in the same format. Raises UserError when there are none.
    """
    template, shots = template or inputs.template, inputs.worked() if worked else ()
    if worked and not shots:
        raise UserError("source_test_shots needs config.eval.base_shots of at least 1")
    head = inputs.before("".join("".join(template.render(e.prompt, e.response)) + "\n\n" for e in shots))
    make = functools.partial(_problem, template=template, head=head)
    splits = [[make(split, example) for example in examples] for split, examples in inputs.problems.items()]
    return [problem for row in itertools.zip_longest(*splits) for problem in row if problem is not None]


def _problem(split: str, e: Example, template: Template, head: str) -> Problem:
    prompt, groups = head + template.render(e.prompt, "")[0], (split, e.group)
    return Problem(f"{split}/{e.id}", e.cluster, prompt, e.response, tuple(filter(None, groups)))


def summarise(records: Sequence[Record]) -> Summary:
    """exact_match (of the number after ####) over all, and over each group that is not all of them, by name."""
    metrics = {"exact_match": stats.over(records, "exact_strict")}
    for group in sorted({group for record in records for group in record["groups"]}):
        members = [record for record in records if group in record["groups"]]
        if len(members) < len(records):
            metrics[f"exact_match_{group}"] = stats.over(members, "exact_strict")
    return Summary(metrics, chance=0.0, derived=answers.formatted(records))


def task(name: str, items: Callable[[Inputs], Sequence[Problem]]) -> Generation:
    """The evaluation with the problems asked in one way."""
    return Generation(name, 3, answers.STOP, items, gsm8k.record, summarise, in_turns=True)


PLAIN_TEMPLATE = TEMPLATES["plain"]
TASK = task("source_test", problems)
PLAIN = task("source_test_plain", functools.partial(problems, template=PLAIN_TEMPLATE))
SHOTS = task("source_test_shots", functools.partial(problems, template=PLAIN_TEMPLATE, worked=True))
