"""Held-out problems of the training source: exact answers, for seen and unseen templates apart."""

import itertools
from collections.abc import Sequence

from lfl_jax.evals import answers, gsm8k, stats
from lfl_jax.evals.base import Generation, Inputs, Record, Summary
from lfl_jax.evals.gsm8k import Problem


def problems(inputs: Inputs) -> list[Problem]:
    """The problems in the training format, groups in turns, so that the first n hold some of each."""
    groups = [
        [
            Problem(f"{group}/{e.id}", e.cluster, inputs.template.render(e.prompt, e.response)[0], e.response, group)
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


TASK = Generation(
    name="source_test",
    version=1,
    stop=answers.STOP,
    items=problems,
    record=gsm8k.record,
    summarise=summarise,
    in_turns=True,
)
