"""Estimates as text: fractions as percentages with one digit, other metrics with three."""

import math

from lfl_jax.evals.metrics import Metric
from lfl_jax.evals.stats import Estimate


def score(e: Estimate | None, metric: Metric, *, with_interval: bool = True) -> str:
    """53.8% [39.9, 67.0], 1.721 [1.611, 1.831], or none."""
    if e is None:
        return "none"
    number = figure(e, metric)
    return f"{number} {interval(e, metric)}".rstrip() if with_interval else number


def change(e: Estimate, metric: Metric) -> str:
    """+52.5 [+38.8, +65.8]: of fractions in percentage points, without a unit."""
    return f"{figure(e, metric, signed=True)} {interval(e, metric, signed=True)}".rstrip()


def figure(e: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """53.8%, or of a change +52.5."""
    return _number(e.mean, metric, signed) + ("%" if metric.percent and not signed else "")


def interval(e: Estimate, metric: Metric, *, signed: bool = False) -> str:
    """[39.9, 67.0]; nothing for a single cluster."""
    # NaN: the error of one cluster's mean cannot be estimated.
    if math.isnan(e.low):
        return ""
    return f"[{_number(e.low, metric, signed)}, {_number(e.high, metric, signed)}]"


def before_to_after(before: Estimate | None, after: Estimate | None) -> str:
    """1% -> 96%, of fractions."""
    variants = ("none" if e is None else f"{100 * e.mean:.0f}%" for e in (before, after))
    return " -> ".join(variants)


def plain(x: float) -> str:
    """0.538: a metric's own unit."""
    return f"{x:.3f}" if abs(x) < 1000 else f"{x:.4g}"


def _number(x: float, metric: Metric, signed: bool) -> str:
    scale, digits = (100, 1) if metric.percent else (1, 3)
    sign = "+" if signed else ""
    return f"{scale * x:{sign}z.{digits}f}"  # z: no negative zero
