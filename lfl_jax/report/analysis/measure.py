"""Measuring the weight changes of checkpoints, one weight of one layer in memory at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from threadpoolctl import ThreadpoolController

from lfl_jax.analysis import decompose, subspaces
from lfl_jax.analysis.checkpoints import Checkpoint
from lfl_jax.analysis.decompose import Spectrum
from lfl_jax.analysis.subspaces import Correlation, UnitChange
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.errors import UserError
from lfl_jax.io.progress import progress
from lfl_jax.report.analysis import one_weight
from lfl_jax.report.analysis.measured import Pair, Value, Weight
from lfl_jax.report.analysis.one_weight import Matrices, Part
from lfl_jax.report.analysis.settings import Settings

# Up the stack, as in LFL's figure S7 (layer 26 of 32): there W + dW is decomposed as well.
HEIGHT = 0.8
# Smaller sides up to which one thread is as fast as two.
SMALL = 768


@dataclass(frozen=True, eq=False)
class Measured:
    """Of all checkpoints: the weights, and {checkpoint: names of those with a change of 0}.

    methods: by which the singular values were computed, in words.
    """

    weights: tuple[Weight, ...]
    unchanged: dict[str, tuple[str, ...]]
    methods: tuple[str, ...]

    def has(self, label: str) -> bool:
        """Whether anything changed at a checkpoint."""
        return any(weight.checkpoint == label for weight in self.weights)


def of_checkpoints(
    checkpoints: Sequence[Checkpoint], settings: Settings, n_layers: int
) -> Measured:
    """Every weight at every checkpoint; UserError where nothing changed at any of them."""
    chosen, weights, unchanged = settings.chosen(n_layers), [], {}
    methods: dict[str, str] = {}
    threads = ThreadpoolController()
    with progress(len(chosen) * len(checkpoints), "weights") as advance:
        for checkpoint in checkpoints:
            zero = []
            for change in _only(checkpoint.changes(), chosen):
                # Said, and left out: it has no rank, and its norm divides nothing.
                if change.is_zero():
                    zero.append(change.name)
                else:
                    is_drawn = change.layer == round(HEIGHT * (n_layers - 1))
                    with threads.limit(limits=_threads(change), user_api="blas"):
                        spectrum = decompose.spectrum(change)
                        weights.append(_weight(checkpoint, change, spectrum, settings, is_drawn))
                    methods[spectrum.method] = spectrum.describe()
                advance(1, weight=change.name)
            unchanged[checkpoint.label] = tuple(zero)
    if not weights:
        raise UserError(
            "nothing changed: every weight is its base's, so that dW has no spectrum and no"
            " direction"
        )
    return Measured(tuple(weights), unchanged, tuple(methods.values()))


def _threads(change: WeightChange) -> int | None:
    """Of the linear algebra: one for a small weight, else what there is.

    Where cores are busy, the threads of a small product wait for one another: a hundred times as
    long as one thread takes.
    """
    return 1 if min(change.shape) <= SMALL else None


def _only(changes: Iterator[WeightChange], chosen: set[tuple[str, int]]) -> Iterator[WeightChange]:
    return (change for change in changes if (change.path, change.layer) in chosen)


def _weight(
    checkpoint: Checkpoint,
    change: WeightChange,
    spectrum: Spectrum,
    settings: Settings,
    is_drawn: bool,
) -> Weight:
    """is_drawn: whether the spectrum of W + dW is computed, for a figure."""
    # Parts have names of their own, so that none replaces another's.
    values: dict[str, Value] = {}
    fields: dict[str, object] = {}
    for part in _parts(change, spectrum, settings, is_drawn):
        values |= part.values
        fields |= part.fields
    return Weight(
        checkpoint=checkpoint.label,
        amount=checkpoint.amount,
        path=change.path,
        layer=change.layer,
        shape=change.shape,
        rank=one_weight.rank_of(change),
        values=values,
        s=spectrum.s,
        **fields,
    )


def _parts(
    change: WeightChange, spectrum: Spectrum, settings: Settings, is_drawn: bool
) -> Iterator[Part]:
    # First, so that too many directions are refused whatever else is measured.
    directions = settings.rank(change)
    yield one_weight.of_spectrum(change, spectrum)
    dense = Part({}, {})
    if change.factors is None:
        dense = one_weight.beside_dense(change, spectrum)
        yield dense
    if not settings.has_base:
        return
    w = change.base()
    yield one_weight.norms(w, spectrum.s, dense.fields.get("rounding_s"))
    if settings.decomposes(change.shape):
        weight = Matrices(w, change.dense(), spectrum.s)
        yield one_weight.of_intruders(weight)
        yield one_weight.of_subspaces(weight, decompose.svd(change, directions))
        yield one_weight.of_units(weight)
        if is_drawn:
            yield Part({}, {"tuned_s": decompose.of_matrix(w + weight.dw).s})


def compared(
    checkpoint: Checkpoint, other: Checkpoint, settings: Settings, n_layers: int
) -> tuple[Pair, ...]:
    """The directions that two changes share, of every weight that both changed.

    UserError where they have none in common.
    """
    chosen, pairs = settings.chosen(n_layers), []
    both = (_only(checkpoint.changes(), chosen), _only(other.changes(), chosen))
    with progress(len(chosen), "compare") as advance:
        for one, another in zip(*both, strict=True):
            # What one of the two left as it was has no directions to compare.
            if not (one.is_zero() or another.is_zero()):
                first, second = (decompose.svd(x, settings.rank(x)) for x in (one, another))
                common = one_weight.common(first, second)
                pairs.append(Pair(one.path, one.layer, one.shape, *common))
            advance(1, weight=one.name)
    if not pairs:
        raise UserError(f"no weight was changed both by {checkpoint.label} and by {other.label}")
    return tuple(pairs)


def correlations(weights: Sequence[Weight]) -> dict[str, Correlation | str]:
    """{checkpoint: of magnitude and direction change over its weights, or why there is none}."""
    by_label: dict[str, list[UnitChange]] = {}
    for weight in weights:
        if weight.unit is not None:
            by_label.setdefault(weight.checkpoint, []).append(weight.unit)
    return {label: _correlation(units) for label, units in by_label.items()}


def _correlation(units: Sequence[UnitChange]) -> Correlation | str:
    # Too few weights are no mistake of the user's: the table says why there is no number.
    try:
        return subspaces.magnitude_against_direction(units)
    except UserError as error:
        return str(error)
