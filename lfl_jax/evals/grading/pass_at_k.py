"""pass@k: the chance that one of k samples is right, from n samples of a problem (Chen et al.,
arXiv 2107.03374)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.sandbox import Program, Verdict
from lfl_jax.evals.task import Execute, Inputs, Record, Task, common_fields

MALFORMED = tuple(f"exception: {name}" for name in ("SyntaxError", "IndentationError", "TabError"))
SHOWN = ("passed", "reason", "seconds", "output")  # of a verdict, in a record
KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Diversity:
    """Distinct texts among the samples of a problem: of all, of those that passed, of those that
    failed."""

    unique: int
    unique_passed: int
    unique_failed: int


def per_problem(n: Sequence[int], c: Sequence[int], ks: Sequence[int]) -> Float[np.ndarray, "K P"]:
    """1 - C(n-c, k) / C(n, k) for each k and problem, unbiased for k <= n; n samples of which c are
    right.

    As 1 - prod_{i=n-c+1..n} (1 - k/i), in logarithms, which keeps small values exact. Raises
    UserError for k > n, k < 1 or c > n.
    """
    n_P, c_P, k_K = (np.asarray(x, np.int64) for x in (n, c, ks))
    if not n_P.size or not k_K.size or k_K.min() < 1 or k_K.max() > n_P.min():
        raise UserError(
            f"pass@k needs k from 1 to the number of samples of every problem: k {list(ks)}, n"
            f" {list(n)}"
        )
    if (c_P > n_P).any() or (c_P < 0).any():
        raise UserError("more samples passed than there are")
    i_PI = n_P[:, None] - np.arange(max(int(c_P.max()), 1))
    counted_PI = np.arange(i_PI.shape[1]) < c_P[:, None]
    certain_KP = n_P - c_P < k_K[:, None]
    ratio_KPI = np.where(
        counted_PI & ~certain_KP[..., None], k_K[:, None, None] / np.maximum(i_PI, 1), 0.0
    )
    return np.where(certain_KP, 1.0, 0.0 - np.expm1(np.log1p(-ratio_KPI).sum(-1)))


def diversity(texts: Sequence[str], passed: Sequence[bool]) -> Diversity:
    """Count distinct texts, compared letter by letter."""
    right = {text for text, ok in zip(texts, passed, strict=True) if ok}
    wrong = {text for text, ok in zip(texts, passed, strict=True) if not ok}
    return Diversity(len(set(texts)), len(right), len(wrong))


def record(
    extract: Callable[[Any, str], str], item: Any, texts: Sequence[str], verdicts: Sequence[Verdict]
) -> Record:
    """The fields of a problem's record: every sample as generated, as run, and how it did, and
    their counts."""
    samples = [
        {"text": text, "code": extract(item, text)} | {name: getattr(v, name) for name in SHOWN}
        for text, v in zip(texts, verdicts, strict=True)
    ]
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
    items: Callable[[Inputs], Sequence[Any]],
    extract: Callable[[Any, str], str],
    program: Callable[[Any, str], Program],
) -> Task:
    """An evaluation by pass@k: items with id, cluster and prompt; the rest as in `Execute`."""
    return Task(
        name,
        2,
        label,
        items,
        Execute(stop, extract, program, functools.partial(record, extract)),
        METRICS,
    )


def of_record(k: int, record: Record) -> float | None:
    """A problem's pass@k; None where it has fewer samples."""
    n, c = record["n"], record["c"]
    return float(per_problem([n], [c], [k])[0, 0]) if k <= n else None


def parsed(record: Record) -> float:
    """How many samples are Python at all."""
    return float(sum(not sample["reason"].startswith(MALFORMED) for sample in record["samples"]))


def _several(field: str, record: Record) -> float | None:
    """Of a problem with several samples."""
    return float(record[field]) if record["n"] > 1 else None


def _distinct(field: str, label: str) -> Metric:
    return Metric(field, functools.partial(_several, field), label, "diversity", **QUANTITY)


METRICS = (
    Metric("pass@1", functools.partial(of_record, 1), "pass@1", chance=0.0),
    *(
        Metric(f"pass@{k}", functools.partial(of_record, k), f"pass@{k}", in_table=False)
        for k in KS[1:]
    ),
    _distinct("unique", "distinct programs"),
    _distinct("unique_passed", "distinct, passing"),
    _distinct("unique_failed", "distinct, failing"),
    Metric("format_compliance", parsed, "format compliance", "format", weight="n"),
    Metric(
        "accuracy_given_valid_format", "c", "accuracy given valid format", "format", weight=parsed
    ),
)
