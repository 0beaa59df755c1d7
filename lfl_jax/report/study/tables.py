"""The numbers of a study's report as tables: of text for people, of CSV and LaTeX for files."""

import csv
import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import rich.table
from jaxtyping import Float

from lfl_jax.statistics.effects import over_seeds
from lfl_jax.studies import claims as published_claims
from lfl_jax.studies.answers import Answer
from lfl_jax.studies.arms import Grid
from lfl_jax.studies.cells import cell_mean
from lfl_jax.studies.changes import Change
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.run_measures import LABELS

# No number has more figures than anybody reads.
DIGITS = 4


@dataclass(frozen=True)
class Table:
    """A name for files, a caption, and rows of text or numbers under their columns."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]

    @property
    def title(self) -> str:
        """Its name as people read it."""
        return self.name.replace("_", " ")

    def texts(self) -> list[list[str]]:
        """Cells as people read them; what does not exist is a dash."""
        return [list(map(_text, row)) for row in self.rows]

    def printed(self) -> rich.table.Table:
        """For a terminal."""
        printed = rich.table.Table(*self.columns, box=None)
        for row in self.texts():
            printed.add_row(*row)
        return printed

    def csv(self) -> str:
        """With full precision; what does not exist is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(map(_value, row) for row in self.rows)
        return file.getvalue()

    def latex(self) -> str:
        """A booktabs tabular, numbers to the right."""
        sides = "".join("l" if _is_text(column) else "r" for column in zip(*self.rows, strict=True))
        head = " & ".join(_escaped(column) for column in self.columns)
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in self.texts()]
        lines = [
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"


def verdicts(findings: Findings) -> Table:
    """Every contrast: the answer, and the effect that it rests on."""
    return Table(
        "verdicts",
        "What the study decides. Effect: forgetting of the first method less that of the second.",
        (
            *("first", "second", "equal", "first forgets", "effect", "95 % low", "95 % high"),
            *("margin", "detectable", "p", "p (Holm)", "reason"),
        ),
        tuple(_verdict_row(answer) for answer in findings.answers),
    )


def _verdict_row(answer: Answer) -> tuple[str | float | None, ...]:
    head = (answer.first, answer.second, answer.equal)
    decision = answer.decision
    if decision is None:
        return (*head, "not answered", *(None,) * 7, answer.reason)
    low, high = decision.effect.interval()
    numbers = (decision.effect.mean, low, high, decision.margin, decision.detectable)
    return (
        *head,
        str(decision.verdict),
        *numbers,
        decision.p_difference,
        answer.p_holm,
        answer.reason,
    )


def claims(findings: Findings) -> Table:
    """What others published, and what the study says of it."""
    return claims_table("claims", published_claims.check(findings))


def claims_table(name: str, results: Sequence[published_claims.Result]) -> Table:
    """Claims as they were checked."""
    return Table(
        name,
        "Published findings, checked by rules on the answers of this study.",
        ("claim", "source", "here", "p (Holm)", "evidence"),
        tuple(
            (one.claim.text, one.claim.source, str(one.checked.status), one.p_holm, one.evidence)
            for one in results
        ),
    )


def points(findings: Findings) -> Table:
    """Every cell of every method's grid, with its interval over seeds and items."""
    rows = []
    for method, grid in findings.grids.items():
        # Each cell has its own error: over its seeds, and over the items it was scored on.
        for index, cell in enumerate(grid.cells):
            learned, forgotten = (cell_mean(axis, index) for axis in (grid.arm.x, grid.arm.y))
            rows.append((method, *cell.columns, *learned, *forgotten))
    return Table(
        "points",
        "Learning and forgetting of every method, learning rate and length, over seeds and items.",
        (
            *("method", "learning rate", "steps", "change"),
            *("learning", "low", "high", "forgetting", "low", "high"),
        ),
        tuple(rows),
    )


def runs(findings: Findings) -> Table:
    """Every run that counts."""
    columns = {
        "learning": lambda grid: grid.arm.x.by_run(),
        "forgetting": lambda grid: grid.arm.y.by_run(),
    }
    return _by_run("runs", "Every run.", findings, columns)


def divergences(findings: Findings) -> Table:
    """Every run's divergence from its base, and what it forgot."""
    columns = {
        "divergence": lambda grid: grid.divergence.by_run(),
        "forgetting": lambda grid: grid.arm.y.by_run(),
    }
    caption = "Every run's divergence from its base."
    return _by_run("divergences", caption, findings, columns)


def _by_run(
    name: str,
    caption: str,
    findings: Findings,
    columns: Mapping[str, Callable[[Grid], Float[np.ndarray, "S P"]]],
) -> Table:
    """A row per run with a number of each column, which is of every seed and cell."""
    rows = []
    for method, grid in findings.grids.items():
        numbers = [column(grid) for column in columns.values()]
        for where, index in _places(grid):
            rows.append((method, *where, *(float(number[index]) for number in numbers)))
    head = ("method", "learning rate", "steps", "change", "seed")
    return Table(name, caption, (*head, *columns), tuple(rows))


def predictors(findings: Findings) -> Table:
    """What each predictor alone explains of forgetting."""
    return Table(
        "predictors",
        "The share of forgetting's variance over runs that each predictor alone explains. Null:"
        " what is expected of one that has nothing to do with it.",
        ("predictor", "R²", "95 % low", "95 % high", "null"),
        tuple((name, p.r2.mean, *p.interval(), p.null) for name, p in findings.predictors.items()),
    )


def measures_of_runs(findings: Findings) -> Table:
    """Every run's measures of its weights and its start, and what it forgot."""
    names = set(LABELS).intersection(*(grid.measures for grid in findings.grids.values()))
    columns = {
        LABELS[name]: functools.partial(_measure_of, name) for name in LABELS if name in names
    }
    if not columns:
        return Table("weights", "", (), ())
    columns["forgetting"] = lambda grid: grid.arm.y.by_run()
    return _by_run("weights", "Every run's weights, and what it started from.", findings, columns)


def _measure_of(name: str, grid: Grid) -> Float[np.ndarray, "S P"]:
    return grid.measures[name]


def flips(findings: Findings) -> Table:
    """Every run's answers that turned, as shares of a task's items."""
    rows = []
    for measure, by_method in findings.flips.items():
        for method, rates in by_method.items():
            for where, index in _places(findings.grids[method]):
                shares = (float(share[index]) for share in rates.columns())
                rows.append((measure, method, *where, *shares))
    return Table(
        "flips",
        "Answers that turned, of every run. By chance: what guessing alone would turn each way.",
        (
            *("measure", "method", "learning rate", "steps", "change", "seed"),
            *("lost", "gained", "by chance", "lost beyond chance", "gained beyond chance"),
        ),
        tuple(rows),
    )


def _places(grid: Grid) -> Iterable[tuple[tuple[float, int, float | str, int], tuple[int, int]]]:
    """((learning rate, steps, change, seed), (seed's index, cell's index)) of every run."""
    for index, cell in enumerate(grid.cells):
        for s, seed in enumerate(grid.seeds):
            yield (*cell.columns, seed), (s, index)


def best_rates(findings: Findings) -> Table:
    """Each method's best learning rate, or why it is not known."""
    rows = []
    for best in findings.best_rates:
        if best.optimum is None:
            rows.append((best.method, None, None, None, best.reason))
        else:
            rows.append((best.method, best.optimum.rate, *best.optimum.interval(), ""))
    return Table(
        "best_learning_rates",
        "The learning rate at which a method learns most: the vertex of a parabola in its log.",
        ("method", "learning rate", "95 % low", "95 % high", "why not"),
        tuple(rows),
    )


def rate_ratios(findings: Findings) -> Table:
    """The first method's best learning rate over the second's."""
    return Table(
        "learning_rate_ratios",
        "The first method's best learning rate over the second's, paired by seed.",
        ("first", "second", "ratio", "95 % low", "95 % high", "why not"),
        tuple(
            (ratio.first, ratio.second, ratio.ratio, *ratio.interval(), ratio.reason)
            for ratio in findings.rate_ratios
        ),
    )


def quality(findings: Findings) -> Table:
    """How much every metric can tell."""
    rows = []
    for measure, one in findings.quality.items():
        chance = one.base and one.base.chance
        numbers = (one.base and one.base.estimate.mean, chance, one.signal, one.noise, one.ratio)
        rows.append((str(measure), *numbers, one.checkpoint_noise, ", ".join(one.labels)))
    return Table(
        "signal_to_noise",
        "Signal: the greatest difference of two models over the mean score. Noise: one run's"
        " standard deviation over seeds, and over its last checkpoints, over the mean score.",
        ("metric", "base", "chance", "signal", "noise", "ratio", "noise of checkpoints", "note"),
        tuple(rows),
    )


def along(findings: Findings) -> Table:
    """Every seed's learning and forgetting during training, since the base."""
    courses = findings.courses
    rows = []
    for method, course in courses.by_method.items() if courses else ():
        for s, seed in enumerate(findings.seeds):
            for n, step in enumerate(course.steps):
                scores = (float(course.learned[s, n]), float(course.forgotten[s, n]))
                rows.append((method, *course.cell.columns, seed, int(step), *scores))
    names = f"{courses.learning}, {courses.forgetting}" if courses else ""
    return Table(
        "along",
        f"Learning and forgetting during training, since the base: {names}.",
        ("method", "learning rate", "steps", "change", "seed", "step", "learning", "forgetting"),
        tuple(rows),
    )


def noise(findings: Findings) -> Table:
    """One run's standard deviation over seeds."""
    return Table(
        "noise",
        "The noise floor: one run's standard deviation over seeds, pooled over learning rates.",
        ("method", "of learning", "of forgetting"),
        tuple((method, *floors) for method, floors in findings.noise.items()),
    )


def measures(findings: Findings) -> Table:
    """Every metric of every method at the cell where it learned most."""
    best = {(method, grid.cells[grid.most_learned]) for method, grid in findings.grids.items()}
    chosen = [change for change in findings.changes if (change.method, change.cell) in best]
    return Table(
        "measures",
        "Every measure, of each method where it learned most. Change: against the base on the same"
        " items, with its 95 % interval over seeds and items.",
        MEASURE_COLUMNS,
        tuple(map(_measure_row, chosen)),
    )


def all_measures(findings: Findings) -> Table:
    """The same at every cell."""
    return Table(
        "measures_of_all_cells",
        "Every measure at every learning rate, length and change.",
        MEASURE_COLUMNS,
        tuple(map(_measure_row, findings.changes)),
    )


MEASURE_COLUMNS = (
    *("task", "metric", "better", "method", "learning rate", "steps", "change"),
    *("base", "tuned", "change", "95 % low", "95 % high", "items", "seeds", "note"),
)


def _measure_row(change: Change) -> tuple[str | float | int | None, ...]:
    metric = change.like.metric
    better = "higher" if metric.higher_is_better else "lower"
    head = (change.measure.task, metric.name, better, change.method, *change.cell.columns)
    if change.tuned is None:
        return (*head, *(None,) * 7, change.reason)

    before = None if change.before is None else change.before.estimate.mean
    # Without a base there is no change; the interval is then the score's own.
    shift = change.change or change.tuned
    numbers = (before, change.tuned.mean, change.change and shift.mean, *shift.interval())
    note = "no headroom: the base is near chance" if change.is_near_chance else ""
    return (*head, *numbers, change.like.estimate.n, shift.seeds, note)


def flips_by_method(findings: Findings) -> Table:
    """Answers that turned at the cell where each method learned most, over seeds."""
    rows = []
    for measure, by_method in findings.flips.items():
        for method, rates in by_method.items():
            grid = findings.grids[method]
            index = grid.most_learned
            shares = [float(share[:, index].mean()) for share in rates.columns()[:3]]
            for beyond in (rates.forgotten, rates.learned):
                effect = over_seeds(beyond[:, index])
                shares += [effect.mean, *effect.interval()]
            rows.append((measure, method, *grid.cells[index].columns, *shares))
    return Table(
        "flips_by_method",
        "Answers that turned, as shares of a task's items, of each method where it learned most."
        " Beyond chance: less what guessing alone would turn, with its 95 % interval over seeds.",
        (
            *("measure", "method", "learning rate", "steps", "change"),
            *("lost", "gained", "by chance", "lost beyond chance", "95 % low", "95 % high"),
            *("gained beyond chance", "95 % low", "95 % high"),
        ),
        tuple(rows),
    )


def _is_text(column: Sequence[str | float | int | None]) -> bool:
    return any(isinstance(cell, str) for cell in column)


def _text(cell: str | float | int | None) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or math.isnan(cell):
        return "–"
    # A count of items is no measurement: all of its figures are read.
    return str(cell) if isinstance(cell, int) else f"{cell:.{DIGITS}g}"


def _value(cell: str | float | int | None) -> str | float | int:
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else cell


def _escaped(text: str) -> str:
    for character in "&%_#$":
        text = text.replace(character, "\\" + character)
    return text.replace("–", "--")
