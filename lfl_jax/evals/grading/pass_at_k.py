"""pass@k: the probability that one of k samples is right, from n samples of a problem.

Chen et al. 2021, arXiv 2107.03374. Beside it: how many of a problem's programs are distinct, and
how many are Python at all.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.evals.grading import numbers
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.sandbox import Program, Verdict
from lfl_jax.evals.task import Execute, Inputs, PromptedItem, Record, Task, common_fields

MALFORMED = tuple(f"exception: {name}" for name in ("SyntaxError", "IndentationError", "TabError"))
VERDICT_FIELDS = ("passed", "reason", "seconds", "output")  # in a record, of every sample
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

AnItem = TypeVar("AnItem", bound=PromptedItem)


@dataclass(frozen=True)
class Diversity:
    """Distinct texts among the samples of a problem: all, passing ones, failing ones."""

    unique: int
    unique_passed: int
    unique_failed: int


def per_problem(n: Sequence[int], c: Sequence[int], ks: Sequence[int]) -> Float[np.ndarray, "K P"]:
    """1 - C(n-c, k) / C(n, k) for each k and problem P: unbiased, of n samples with c right.

    Worked out as 1 - prod_{i=n-c+1..n} (1 - k/i), in logarithms, which keeps small values exact.
    Raises UserError for k > n, k < 1 or c > n.
    """
    n_P, c_P, k_K = (np.asarray(x, np.int64) for x in (n, c, ks))
    if not n_P.size or not k_K.size or k_K.min() < 1 or k_K.max() > n_P.min():
        raise UserError(
            "pass@k needs k from 1 to the number of samples of every problem: k"
            f" {list(ks)}, n {list(n)}"
        )
    if (c_P > n_P).any() or (c_P < 0).any():
        raise UserError("more samples passed than there are")

    # The factors i = n, n-1, ..., n-c+1 of a problem; those beyond its own c are masked out.
    i_PI = n_P[:, None] - np.arange(max(int(c_P.max()), 1))
    is_factor_PI = np.arange(i_PI.shape[1]) < c_P[:, None]
    # With fewer than k wrong samples, any k of them have a right one (and log(0) is avoided).
    certain_KP = n_P - c_P < k_K[:, None]
    k_over_i_KPI = k_K[:, None, None] / np.maximum(i_PI, 1)
    ratio_KPI = np.where(is_factor_PI & ~certain_KP[..., None], k_over_i_KPI, 0.0)
    return np.where(certain_KP, 1.0, 0.0 - np.expm1(np.log1p(-ratio_KPI).sum(-1)))


def diversity(texts: Sequence[str], passed: Sequence[bool]) -> Diversity:
    """Count distinct texts, compared character by character."""
    right = {text for text, ok in zip(texts, passed, strict=True) if ok}
    wrong = {text for text, ok in zip(texts, passed, strict=True) if not ok}
    return Diversity(len(set(texts)), len(right), len(wrong))


def record(
    extract: Callable[[AnItem, str], str],
    item: AnItem,
    texts: Sequence[str],
    verdicts: Sequence[Verdict],
) -> Record:
    """A problem's record: every sample as generated and as run, with its verdict, and counts."""
    samples = []
    for text, verdict in zip(texts, verdicts, strict=True):
        described = {name: getattr(verdict, name) for name in VERDICT_FIELDS}
        samples.append({"text": text, "code": extract(item, text)} | described)
    passed = [verdict.passed for verdict in verdicts]
    return common_fields(item) | {
        "n": len(samples),
        "c": sum(passed),
        "rate": sum(passed) / len(samples),
        **asdict(diversity(texts, passed)),
        "samples": samples,
    }


def task(
    name: str,
    label: str,
    stop: tuple[str, ...],
    items: Callable[[Inputs], Sequence[AnItem]],
    extract: Callable[[AnItem, str], str],
    program: Callable[[AnItem, str], Program],
) -> Task:
    """An evaluation by pass@k; extract and program as in `Execute`."""
    method = Execute(stop, extract, program, functools.partial(record, extract))
    return Task(name, 2, label, items, method, METRICS)


def of_record(k: int, record: Record) -> float | None:
    """A problem's pass@k; None where it has fewer samples."""
    n, c = record["n"], record["c"]
    return float(per_problem([n], [c], [k])[0, 0]) if k <= n else None


def parsed(record: Record) -> float:
    """How many samples are Python at all."""
    return float(sum(not sample["reason"].startswith(MALFORMED) for sample in record["samples"]))


def passed_or_unparsed(record: Record) -> float:
    """How many samples pass, were those that are no Python to pass."""
    return record["c"] + record["n"] - parsed(record)


def _of_several(field: str, record: Record) -> float | None:
    # Of one sample, one is distinct: that says nothing.
    return float(record[field]) if record["n"] > 1 else None


def _pass_at(k: int) -> Metric:
    return Metric(f"pass@{k}", functools.partial(of_record, k), f"pass@{k}", in_table=False)


def _distinct(field: str, label: str) -> Metric:
    return Metric(field, functools.partial(_of_several, field), label, "diversity", **QUANTITY)


METRICS = (
    Metric("pass@1", functools.partial(of_record, 1), "pass@1", chance=0.0),
    *map(_pass_at, KS[1:]),
    _distinct("unique", "distinct programs"),
    _distinct("unique_passed", "distinct, passing"),
    _distinct("unique_failed", "distinct, failing"),
    # Of samples, not of problems: their weights are numbers of samples.
    Metric("format_compliance", parsed, "format compliance", "format", weight="n"),
    Metric("accuracy_given_valid_format", "c", numbers.GIVEN, "format", weight=parsed),
    *numbers.bounds("c", passed_or_unparsed, weight="n"),
)
