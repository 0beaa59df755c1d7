"""Figures of a run, made where matplotlib is installed (extra `plots`)."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from lfl_jax.evals.run import Result
from lfl_jax.evals.stats import Estimate

Curve = dict[int, Estimate]
SHADE = 0.18  # of the band of one standard error


def pass_at_k(sides: Mapping[str, Mapping[str, Result]], folder: Path) -> Path | None:
    """pass_at_k.png in `folder`: pass@k of every coding task, a line for each of {side: results}, and one error.

    None, and no file, where no task has more than one sample of a problem, or matplotlib is not installed.
    """
    curves = {side: {task: curve(result) for task, result in results.items()} for side, results in sides.items()}
    labels = {task: result.label for results in sides.values() for task, result in results.items()}
    tasks = list(dict.fromkeys(t for found in curves.values() for t, points in found.items() if len(points) > 1))
    if not tasks or not importlib.util.find_spec("matplotlib"):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tasks), 3.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for side, found in curves.items():
            ks, points = list(found.get(task, {})), list(found.get(task, {}).values())
            axes.plot(ks, [p.mean for p in points], marker="o", markersize=3, label=side)
            low, high = ([p.mean + sign * p.se for p in points] for sign in (-1, 1))
            axes.fill_between(ks, low, high, alpha=SHADE)
        axes.set(title=labels[task], xlabel="k", ylabel="pass@k", ylim=(0, 1))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks_of(curves, task), [str(k) for k in ks_of(curves, task)])
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path = folder / "pass_at_k.png"
    figure.savefig(path, dpi=150)
    return path


def curve(result: Result) -> Curve:
    """{k: pass@k} of a result, in the order of k."""
    found = {name.removeprefix("pass@"): e for name, e in result.metrics.items() if name.startswith("pass@")}
    return {int(k): found[k] for k in sorted(found, key=int)}


def ks_of(curves: Mapping[str, Mapping[str, Curve]], task: str) -> list[int]:
    """Every k at which a side has a point."""
    return sorted({k for found in curves.values() for k in found.get(task, {})})
