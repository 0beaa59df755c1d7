"""Can the verdicts of a study be trusted? Thousands of simulated studies with its own variances.

    python benchmarks/calibrate_study.py --config=configs/studies/lab.py --workdir=studies/lab --out=results/studies/lab

Reads a study whose runs have finished, estimates what its scores vary by (seeds, items, and what an arm or a learning
rate does to either), and simulates studies of its size: 2,000 whose arms are copies of one method, then 400 for every
gap of a power curve. Each is decided as the study itself is. Done with the cells of either arm of the first contrast,
since one may be near the end of its scale where the other is not.

Targets: false "more" and "less" together at most 5 %; 93 to 97 % of the 95 % intervals hold the true gap; a gap of
three noise widths (the standard deviation of a run's forgetting over seeds) found in at least 95 %. Writes
calibration.json and calibration.svg, .png. One core, minutes (`seconds` in the JSON).
"""

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from lfl_jax.core import files
from lfl_jax.errors import UserError, entry
from lfl_jax.report.study.figures.style import COLOURS, INK, STYLE
from lfl_jax.statistics import calibration, variances
from lfl_jax.statistics.frontier import Arm
from lfl_jax.studies import grid, outcome
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.running.execute import Study

# Of the power curve, in noise widths.
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def main(argv: Sequence[str]) -> None:
    """The command above."""
    options = _options(argv)
    started = time.monotonic()
    config = grid.load(options.config)
    study = Study(Path(options.workdir).absolute(), grid.expand(config))
    findings = outcome.findings(config, study, study.states())

    # Both simulated arms have the cells of one real arm, so that two copies truly forget alike.
    primary = findings.answers[0]
    first, second = (_trained(findings.grids[name]) for name in (primary.first, primary.second))
    margin = config.question.margin
    arms = {
        arm.name: _calibrated(arm, other, margin, options)
        for arm, other in ((first, second), (second, first))
    }
    if all("reason" in arm for arm in arms.values()):
        reasons = "; ".join(f"cells of {name}: {arm['reason']}" for name, arm in arms.items())
        raise UserError(f"nothing to simulate: {reasons}")
    report = {
        "command": f"python benchmarks/calibrate_study.py {' '.join(argv[1:])}",
        "study": config.name,
        "seeds": len(findings.seeds),
        "margin": margin,
        "arms": arms,
        "versions": {name: version(name) for name in ("lfl_jax", "numpy", "scipy")},
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "seconds": round(time.monotonic() - started, 1),
    }
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    files.write_json(out / "calibration.json", report)
    _draw(arms, margin, out)
    print(json.dumps({name: arm.get("targets", arm) for name, arm in arms.items()}, indent=1))
    print(f"written to {out}/calibration.json, .svg and .png")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("config", "workdir", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--studies", type=int, default=2000, help="of two copies of one method")
    parser.add_argument("--power_studies", type=int, default=400, help="of every planted gap")
    return parser.parse_args(argv[1:])


def _trained(method: Grid) -> Arm:
    """Its cells as trained: an altered change has no noise of its own."""
    cells = [index for index, cell in enumerate(method.cells) if cell.point.is_trained]
    # A method of altered changes alone has nothing else.
    cells = cells or list(range(len(method.cells)))
    x, y = (
        dataclasses.replace(axis, values=axis.values[:, cells])
        for axis in (method.arm.x, method.arm.y)
    )
    return Arm(method.arm.name, x, y)


def _calibrated(arm: Arm, other: Arm, margin: float, options: argparse.Namespace) -> dict:
    """Of studies whose arms have this one's cells; or the reason why there are none."""
    try:
        design = variances.design(arm, other)
        same = calibration.calibrate(design, 0.0, margin, options.studies)
    except UserError as error:
        return {"reason": str(error)}
    width = design.noise_width
    planted = [widths * width for widths in WIDTHS]
    curve = calibration.power(design, margin, planted, options.power_studies, seed=1)
    return {
        "design": dataclasses.asdict(design),
        "noise_width": width,
        "same": dataclasses.asdict(same),
        "power": [
            {"noise_widths": widths, **dataclasses.asdict(rates)}
            for widths, rates in zip(WIDTHS, curve, strict=True)
        ],
        "targets": {
            "false more or less, at most 0.05": same.more + same.less,
            "coverage, 0.93 to 0.97": same.coverage,
            "three noise widths found, at least 0.95": curve[-1].more,
            "refused": same.refused,
        },
    }


def _draw(arms: dict[str, dict], margin: float, out: Path) -> None:
    """The share of simulated studies with each verdict over the planted gap."""
    simulated = {name: arm for name, arm in arms.items() if "power" in arm}
    with mpl.rc_context({**STYLE, "svg.hashsalt": "lfl_jax"}):
        canvas, axes = pyplot.subplots(
            1,
            max(len(simulated), 1),
            figsize=(7, 3),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, (name, arm) in zip(axes[0], simulated.items(), strict=False):
            rows = [{"noise_widths": 0.0, **arm["same"]}, *arm["power"]]
            gaps = [row["gap"] for row in rows]
            for colour, verdict in zip(
                COLOURS, ("more", "equivalent", "undecided", "less"), strict=False
            ):
                axis.plot(
                    gaps, [row[verdict] for row in rows], "o-", color=colour, ms=3, label=verdict
                )
            axis.axvline(margin, color=INK, ls=":", lw=1)
            axis.axhline(0.05, color=INK, lw=0.5)
            axis.set(xlabel="true gap in forgetting (dotted: the margin)", title=f"cells of {name}")
            axis.secondary_xaxis("top", functions=_widths(arm["noise_width"])).set_xlabel(
                "noise widths"
            )
        axes[0, 0].set_ylabel("share of simulated studies")
        axes[0, -1].legend()
        canvas.savefig(out / "calibration.svg", transparent=True, metadata={"Date": None})
        canvas.savefig(out / "calibration.png", dpi=150)
        pyplot.close(canvas)


def _widths(width: float) -> tuple:
    return lambda gaps: np.asarray(gaps) / width, lambda widths: np.asarray(widths) * width


if __name__ == "__main__":
    entry(main)
