"""The page of a study: everything inside of one HTML file, without scripts."""

import dataclasses
import hashlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from lfl_jax.core import files
from lfl_jax.report import html
from lfl_jax.report.study import dimension_table, items, parquet, replication, transfer
from lfl_jax.report.study import figures as drawing
from lfl_jax.report.study import tables as tabular
from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import NO_INTERVAL, Effect
from lfl_jax.statistics.frontier import Gap
from lfl_jax.statistics.mediation import Mediation
from lfl_jax.statistics.verdicts import Verdict
from lfl_jax.studies import claims
from lfl_jax.studies.answers import PRIMARY, Answer
from lfl_jax.studies.claims import intrinsic_dimension
from lfl_jax.studies.findings import Findings

TEMPLATE = "study/page.html"
# At every figure, and above all tables, whose intervals are then blank.
ONE_SEED = (
    f"{NO_INTERVAL.capitalize()} and no verdict; nothing here says what another seed would do."
)
# On the page, in this order.
SHOWN = (
    transfer.by_method,
    transfer.contrasts,
    tabular.verdicts,
    dimension_table.table,
    tabular.measures,
    tabular.flips_by_method,
    tabular.best_rates,
    tabular.rate_ratios,
    tabular.points,
    tabular.noise,
    tabular.quality,
    tabular.runs,
)
# In files only: many rows, and what has a section of its own.
ON_DISK = (transfer.cells, tabular.all_measures, tabular.measures_of_runs, tabular.claims)


@dataclass(frozen=True)
class About:
    """What a page says of the study itself. flags: warnings that stand at every figure."""

    title: str
    command: str
    flags: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


def write(findings: Findings, about: About, folder: Path) -> Path:
    """index.html, figures/ and tables/ in a folder; UserError without the extra `study`."""
    html.require_extra()
    about = _with_reservations(findings, about)
    figures, tables = drawing.draw(findings, about.flags), _tables(findings, SHOWN)
    tables += replication.tables(findings.question, findings.grids)
    # A report that was killed is written again, and its folder is then as if it had not been.
    files.remove_partial(folder)
    # Each drawing is rendered once, for the page and for its file.
    drawn = [figure.svg() for figure in figures]
    html.write_parts(figures, drawn, [*tables, *_tables(findings, ON_DISK)], folder)
    parquet.write(findings, about.title, folder / "tables")

    parts = {
        # What a study of several tasks is about comes first.
        "verdicts": [*transfer.verdicts(findings), *map(_verdict, findings.answers)],
        "claims": claims.check(findings),
        "declared": question_hash(findings),
        "figures": list(map(html.embedded, figures, drawn)),
        "tables": tables,
        "items": items.view(findings),
        "left_out": findings.left_out,
    }
    page = html.render(
        TEMPLATE,
        title=about.title,
        subtitle=_subtitle(findings),
        flags=about.flags,
        methods=(*about.methods, *_methods(findings)),
        command=about.command,
        versions=_versions(findings),
        **parts,
    )
    files.write_text(folder / "index.html", page)
    return folder / "index.html"


def _with_reservations(findings: Findings, about: About) -> About:
    """With why intervals are left blank, where they all are."""
    if len(findings.seeds) > 1:
        return about
    return dataclasses.replace(about, flags=(*about.flags, ONE_SEED))


def publish(findings: Findings, about: About, folder: Path, console: Console) -> Path:
    """Write the page, and print each contrast's sentence and where the page is."""
    written = write(findings, about, folder)
    # Names of methods and measures are the user's: brackets in them are no markup.
    for text in (*transfer.sentences(findings), *map(sentence, findings.answers)):
        console.print(text, soft_wrap=True, markup=False)
    if (dimension := intrinsic_dimension.measure(findings)) is not None:
        console.print(str(dimension), soft_wrap=True, markup=False)
    console.print(f"written to {written}", soft_wrap=True, markup=False)
    return written


def question_hash(findings: Findings) -> str:
    """Of everything that was declared before the runs: contrasts, measures and margin."""
    declared = repr(findings.question) + (repr(findings.sequence) if findings.sequence else "")
    return hashlib.sha256(declared.encode()).hexdigest()[:12]


def _tables(findings: Findings, makers: Sequence[Callable[[Findings], Table]]) -> list[Table]:
    # Without rows there is nothing to read: a study without accuracies has no flips.
    tables = (make(findings) for make in makers)
    return [table for table in tables if table.rows]


ANSWERS = {
    Verdict.LESS: "Yes: {first} forgets less.",
    Verdict.MORE: "No: {first} forgets more.",
    Verdict.EQUIVALENT: "No: they forget alike, to within the margin.",
    Verdict.UNDECIDED: "Undecided.",
}


def _verdict(answer: Answer) -> dict[str, str]:
    """A contrast as a question with its answer, and what the answer rests on."""
    where = f"each at its {answer.equal}" if answer.is_at_best else f"at equal {answer.equal}"
    question = f"Does {answer.first} forget less than {answer.second} {where}?"
    if answer.decision is None:
        return {
            "kind": "none",
            "question": question,
            "answer": "Not answered.",
            "evidence": answer.reason,
        }
    decision = answer.decision
    evidence = [
        f"Difference in forgetting {decision.effect.mean:+.3g}, {_interval(decision.effect)}",
        f"margin {decision.margin:g}",
    ]
    if decision.finds:
        evidence += [decision.finds, f"{decision.effect.seeds} seeds"]
    if isinstance(answer.evidence, Gap):
        what = answer.equal if answer.equal == PRIMARY else f"log {answer.equal}"
        evidence.append(f"over {what} {answer.evidence.low:.3g} to {answer.evidence.high:.3g}")
    if isinstance(answer.evidence, Mediation):
        shares = answer.evidence
        evidence.append(
            f"the divergence explains {shares.r2_divergence:.0%} of the variance over runs, the"
            f" method alone {shares.r2_method:.0%}, both {shares.r2_both:.0%}"
        )
    if answer.p_holm is not None:
        evidence.append(f"secondary, p after Holm {answer.p_holm:.2g}")
    if answer.reason:
        evidence.append(answer.reason)
    return {
        "kind": str(decision.verdict),
        "question": question,
        "answer": ANSWERS[decision.verdict].format(first=answer.first),
        "evidence": "; ".join(evidence) + ".",
    }


def _interval(effect: Effect) -> str:
    low, high = effect.interval()
    return NO_INTERVAL if math.isnan(low) else f"95 % interval [{low:+.3g}, {high:+.3g}]"


def sentence(answer: Answer) -> str:
    """A contrast's question, answer and evidence, for a terminal."""
    verdict = _verdict(answer)
    return f"{verdict['question']} {verdict['answer']} {verdict['evidence']}"


def _subtitle(findings: Findings) -> str:
    runs = sum(len(grid.cells) for grid in findings.grids.values()) * len(findings.seeds)
    question = findings.question
    seeds = f"{len(findings.seeds)} seed{'s' if len(findings.seeds) > 1 else ''}"
    return (
        f"{runs} runs of {', '.join(findings.grids)}, {seeds}. Learned:"
        f" {question.measures.learning}. Forgotten: {question.measures.forgetting}, against the"
        " base on the same items."
    )


def _methods(findings: Findings) -> list[str]:
    question = findings.question
    return [
        f"Learning is {question.measures.learning}; forgetting is the base's"
        f" {question.measures.forgetting} less the tuned model's, item by item. The primary"
        " contrast of two methods is the vertical gap between their learning-forgetting frontiers,"
        " averaged over the learning that both reach, without extrapolation. Its error is two-way"
        " clustered, over seeds and clusters of items, with Satterthwaite's degrees of freedom.",
        f"A difference is called more or less when its 95 % interval excludes zero, equivalent when"
        f" two one-sided tests at 5 % put it within {question.margin:g}, and undecided otherwise."
        f" Measures, margin and contrasts have the hash {question_hash(findings)}. The contrast at"
        " each method's best learning rate is secondary, corrected by Holm's method.",
    ]


def _versions(findings: Findings) -> str:
    return (
        f"lfl_jax {version('lfl_jax')}, numpy {version('numpy')}, scipy {version('scipy')},"
        f" Python {platform.python_version()}"
    )
