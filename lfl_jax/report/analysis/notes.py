"""What has to be known to read an analysis, in sentences."""

from collections.abc import Sequence

from lfl_jax.analysis.checkpoints import Checkpoint
from lfl_jax.report.analysis.measure import Measured
from lfl_jax.report.analysis.settings import LARGE, Settings

# Names that a sentence lists.
MOST = 4


def of(
    measured: Measured, checkpoints: Sequence[Checkpoint], settings: Settings
) -> tuple[str, ...]:
    """Zero changes, other changed parameters, how exact the numbers are, what is left out."""
    lines = []
    # In a table a change of 0 would be a rank of 0, which no change has.
    for label, names in measured.unchanged.items():
        if names:
            lines.append(
                f"{label}: {len(names)} weights did not change at all and are left out: dW = 0 has"
                f" no rank ({_listed(names)})."
            )
    for others, labels in _by_others(checkpoints).items():
        if others:
            lines.append(
                f"{_listed(labels)}: these changed as well, and have no spectrum here:"
                f" {', '.join(others)}."
            )
    lines.append(f"Singular values of dW: {'; '.join(measured.methods)}.")
    # Large weights alone may have been left out.
    shapes = {weight.shape for weight in measured.weights}
    if not all(map(settings.decomposes, shapes)):
        lines.append(_left_out(settings))
    return tuple(lines)


def _by_others(checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, ...], list[str]]:
    """{other parameters that changed: labels}: checkpoints of one run have the same."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for checkpoint in checkpoints:
        labels.setdefault(checkpoint.others, []).append(checkpoint.label)
    return labels


def _left_out(settings: Settings) -> str:
    what = "intruders, directions common with W, amplification and changes of units are left out"
    if not settings.has_base:
        return f"W was not read: {what}, and norms are not beside W's."
    if settings.decomposes_base is None:
        return (
            f"W was not decomposed where its smaller side is above {LARGE}: {what} there;"
            " --base_svd=yes computes them, in minutes for each weight."
        )
    return f"W was not decomposed: {what}."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
