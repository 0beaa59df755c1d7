"""Held-out problems of the training source: exact answers, for seen and unseen templates apart.

They are asked as in training, in the plain format whatever the training's was, or in the plain format after worked
training examples: what that makes of the base is what prompting alone buys.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

from lfl_jax.errors import UserError
from lfl_jax.evals import answers, gsm8k, stats
from lfl_jax.evals.base import Generation, Inputs, Record, Summary
from lfl_jax.evals.gsm8k import Problem
from lfl_jax.text.chat import TEMPLATES, Template


def problems(inputs: Inputs, template: Template | None = None, worked: bool = False) -> list[Problem]:
    """The problems in a format, by default the training's; groups in turns, so that the first n hold some of each.

    worked: after `inputs.worked`, in the same format. Raises UserError when there are none.
    """
    template, shots = template or inputs.template, inputs.worked() if worked else ()
    if worked and not shots:
        raise UserError("source_test_shots needs config.eval.base_shots of at least 1")
    head = inputs.before("".join("".join(template.render(e.prompt, e.response)) + "\n\n" for e in shots))
    groups = [
        [
            Problem(f"{group}/{e.id}", e.cluster, head + template.render(e.prompt, "")[0], e.response, group)
            for e in examples
        ]
        for group, examples in inputs.problems.items()
    ]
    return [problem for row in itertools.zip_longest(*groups) for problem in row if problem is not None]


def summarise(records: Sequence[Record]) -> Summary:
    """exact_match (of the number after ####) over all, and per group where there are several."""
    groups = list(dict.fromkeys(record["group"] for record in records))
    metrics = {"exact_match": stats.over(records, "exact_strict")}
    for group in groups if len(groups) > 1 else ():
        members = [record for record in records if record["group"] == group]
        metrics[f"exact_match_{group}"] = stats.over(members, "exact_strict")
    return Summary(metrics, chance=0.0, derived=answers.formatted(records))


def task(name: str, items: Callable[[Inputs], Sequence[Problem]]) -> Generation:
    """The evaluation with the problems asked in one way."""
    return Generation(name, 2, answers.STOP, items, gsm8k.record, summarise, in_turns=True)


PLAIN_TEMPLATE = TEMPLATES["plain"]
TASK = task("source_test", problems)
PLAIN = task("source_test_plain", functools.partial(problems, template=PLAIN_TEMPLATE))
SHOTS = task("source_test_shots", functools.partial(problems, template=PLAIN_TEMPLATE, worked=True))
