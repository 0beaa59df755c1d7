"""All of an analysis: the checkpoints of a subject, and what is asked for beside them."""

from collections.abc import Sequence

from lfl_jax.analysis import token_forgetting
from lfl_jax.analysis.checkpoints import Subject
from lfl_jax.analysis.token_forgetting import TokenForgetting
from lfl_jax.report.analysis import measure, notes
from lfl_jax.report.analysis.measured import Analysis
from lfl_jax.report.analysis.settings import Settings


def analyse(subject: Subject, settings: Settings, texts: Sequence[str] = ()) -> Analysis:
    """Measure every weight; compare directions with `subject.other`; score the texts, if any.

    Raises UserError where nothing changed, and for settings that do not fit the weights.
    """
    n_layers, last = subject.base.cfg.n_layers, subject.checkpoints[-1]
    measured = measure.of_checkpoints(subject.checkpoints, settings, n_layers)
    pairs = ()
    if subject.other is not None:
        pairs = measure.compared(last, subject.other, settings, n_layers)
    # A checkpoint at which nothing changed has nothing to draw: the notes name it.
    labels = [checkpoint.label for checkpoint in subject.checkpoints]
    return Analysis(
        title=subject.title,
        base=subject.base.name,
        weights=measured.weights,
        labels=tuple(filter(measured.has, labels)),
        unit=subject.unit,
        flags=subject.flags,
        notes=notes.of(measured, subject.checkpoints, settings),
        unchanged=measured.unchanged,
        others={checkpoint.label: checkpoint.others for checkpoint in subject.checkpoints},
        correlations=measure.correlations(measured.weights),
        compared=subject.other.label if subject.other else "",
        pairs=pairs,
        tokens=_tokens(subject, texts) if texts else None,
    )


def _tokens(subject: Subject, texts: Sequence[str]) -> TokenForgetting:
    base, tuned = subject.base.loaded, subject.checkpoints[-1].model()
    return token_forgetting.of_models(base, tuned, texts, show_progress=True)
