"""Tasks one after another in a study's report: the questions, and the numbers as tables."""

from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import Effect, in_words, over_seeds, over_seeds_and_items
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies import continual
from lfl_jax.studies.answers import BEST_RATE
from lfl_jax.studies.arms import Measure, item_values
from lfl_jax.studies.continual import Contrast, Transfer
from lfl_jax.studies.findings import Findings

Row = tuple[str | float | int | None, ...]

BASE = "the base"
ANSWERS = {
    Verdict.MORE: "Yes: {first} keeps more.",
    Verdict.LESS: "No: {first} keeps less.",
    Verdict.EQUIVALENT: "No: they keep alike, to within the margin.",
    Verdict.UNDECIDED: "Undecided.",
}
# A lower and a higher limit, of 95 %.
LIMITS = ("95 % low", "95 % high")


def verdicts(findings: Findings) -> list[dict[str, str]]:
    """Each contrast as a question with its answer, and what the answer rests on; for the page."""
    if findings.transfers is None:
        return []
    return [_verdict(contrast) for contrast in findings.transfers.contrasts]


def _verdict(contrast: Contrast) -> dict[str, str]:
    at_best = contrast.equal == BEST_RATE
    where = f"each at its {contrast.equal}" if at_best else f"at equal {contrast.equal} of each"
    pair = f"{contrast.first} keep more of earlier tasks than {contrast.second}"
    question = f"Does {pair} {where}?"
    decision = contrast.decision
    if decision is None:
        unanswered = {"answer": "Not answered.", "evidence": contrast.reason}
        return {"kind": "none", "question": question} | unanswered
    effect = in_words(decision.effect.mean, decision.effect.interval(), "+.3g")
    evidence = [f"Difference in backward transfer {effect}", f"margin {decision.margin:g}"]
    evidence += filter(None, (decision.finds, contrast.reason))
    # As on the page's other verdicts, where less is forgotten.
    colours = {Verdict.MORE: "less", Verdict.LESS: "more"}
    return {
        "kind": colours.get(decision.verdict, str(decision.verdict)),
        "question": question,
        "answer": ANSWERS[decision.verdict].format(first=contrast.first),
        "evidence": "; ".join(evidence) + ".",
    }


def sentences(findings: Findings) -> list[str]:
    """The same for a terminal."""
    return [" ".join((v["question"], v["answer"], v["evidence"])) for v in verdicts(findings)]


def contrasts(findings: Findings) -> Table:
    """Every contrast of two methods' backward transfer."""
    rows = []
    for contrast in findings.transfers.contrasts if findings.transfers else ():
        head, decision = (contrast.first, contrast.second, contrast.equal), contrast.decision
        if decision is None:
            rows.append((*head, "not answered", *(None,) * 5, contrast.reason))
            continue
        numbers = (decision.effect.mean, *decision.effect.interval(), decision.margin)
        verdict = str(decision.verdict)
        rows.append((*head, verdict, *numbers, decision.p_difference, contrast.reason))
    return Table(
        "transfer_contrasts",
        "Backward transfer of the first method less that of the second: more where the first keeps"
        " more of the tasks that it learned before others.",
        ("first", "second", "equal", "first keeps", "effect", *LIMITS, "margin", "p", "reason"),
        tuple(rows),
    )


def by_method(findings: Findings) -> Table:
    """Each method's transfer at its best learning rate, or why it is not known."""
    rows = []
    transfers = findings.transfers
    for method, one in transfers.by_method.items() if transfers else ():
        numbers = [None] * len(_COLUMNS) if one.reason else _numbers(list(map(one.at_best, _NAMES)))
        rows.append((method, None if one.reason else one.chosen_rates, *numbers, one.reason))
    for method, reason in transfers.missing.items() if transfers else ():
        rows.append((method, None, *(None,) * len(_COLUMNS), reason))
    return Table(
        "transfer",
        "Each method at its best learning rate. At the end: the mean score of the tasks after the"
        " last one, by which the rate is chosen. Learned: the same, each right after its own"
        " training. Backward: what later tasks changed of it, below 0 where they made"
        " it forget. Forward: what earlier tasks did for a task before its own training, against"
        " the base.",
        ("method", "learning rate", *_COLUMNS, "why not"),
        tuple(rows),
    )


_NAMES = tuple(continual.QUANTITIES)
_COLUMNS = tuple(column for name in _NAMES for column in (name, *LIMITS))


def _numbers(effects: list[Effect]) -> list[float]:
    return [number for effect in effects for number in (effect.mean, *effect.interval())]


def cells(findings: Findings) -> Table:
    """Each method's transfer at every learning rate."""
    rows = []
    for method, one in findings.transfers.by_method.items() if findings.transfers else ():
        for index, cell in enumerate(one.grid.cells):
            parts = [one.axes[name].part(index) for name in _NAMES]
            numbers = _numbers(list(map(over_seeds_and_items, parts)))
            rows.append((method, cell.lr, cell.step, *numbers))
    return Table(
        "transfer_by_rate",
        "Transfer at every learning rate, as in the table of the best ones.",
        ("method", "learning rate", "steps", *_COLUMNS),
        tuple(rows),
    )


def matrix(findings: Findings) -> Table:
    """The score on every task after each, of each method at its best learning rate."""
    rows = []
    if findings.transfers is not None:
        rows += _of_base(findings)
        for method, one in findings.transfers.by_method.items():
            # Without a best rate there is no matrix that is the method's.
            rows += [] if one.reason else _of_method(findings, method, one)
    return Table(
        "transfer_matrix",
        "Scores after training on each task in turn: the mean over seeds and its interval.",
        (
            *("method", "learning rate", "after", "scored on", "measure", "better"),
            *("score", *LIMITS, "seeds"),
        ),
        tuple(rows),
    )


def _scored(findings: Findings) -> list[tuple[str, Measure]]:
    """(name, measure) of the tasks, and of every other evaluation by its own name."""
    of_tasks = [(task.name, task.score) for task in findings.sequence]
    return of_tasks + [(other.task, other) for other in continual.other_measures(findings)]


def _of_base(findings: Findings) -> list[Row]:
    rows = []
    for name, measure in _scored(findings):
        mean = float(item_values(findings.base, findings.base, measure).mean())
        head = (BASE, None, BASE, name, str(measure), _better(findings, measure))
        rows.append((*head, mean, None, None, None))
    return rows


def _of_method(findings: Findings, method: str, one: Transfer) -> list[Row]:
    rows = []
    for index, task in enumerate(findings.sequence):
        for column, (name, measure) in enumerate(_scored(findings)):
            effect = over_seeds(one.by_seed(column)[:, index])
            head = (method, one.chosen_rates, task.name, name, str(measure))
            numbers = (effect.mean, *effect.interval(), effect.seeds)
            rows.append((*head, _better(findings, measure), *numbers))
    return rows


def _better(findings: Findings, measure: Measure) -> str:
    return "higher" if measure.of(findings.base).metric.higher_is_better else "lower"
