"""What is said of a weight's change: every measure declared once, with what it is read beside.

Those of a spectrum are `analysis.spectra.MEASURES`. The printed table, the page, the tables in
files and the Parquet file all iterate over MEASURES.
"""

from dataclasses import dataclass

from lfl_jax.analysis import spectra

NULL = "_null"
LORA, LFL, INTRUDERS = "arXiv 2106.09685", "arXiv 2405.09673", "arXiv 2410.21228"
DORA, MORA = "arXiv 2402.09353", "arXiv 2405.12130"
GAUSSIAN = "a Gaussian change of the same shape and rank"
RANDOM_DIRECTIONS = "a change of the same size in random directions"


@dataclass(frozen=True)
class Measure:
    """A number of one weight's change.

    name: the column in files. null: what it is read beside, whose value is the column NAME_null; ""
    where there is none. in_table: whether the printed table has it. is_total: whether a module's is
    the sum over layers, and not their mean.
    """

    name: str
    label: str
    about: str
    null: str = ""
    in_table: bool = False
    is_total: bool = False

    @property
    def null_name(self) -> str:
        """The column of its null."""
        return self.name + NULL

    @property
    def null_label(self) -> str:
        """The label of its null."""
        return f"{self.label}, null"


# Of spectra.MEASURES: what each is, and whether the printed table has it.
SPECTRAL = {
    "k90": (
        "the least number of directions with 90 % of the squared singular values: the rank of LFL"
        f" ({LFL}, figure 6)",
        True,
    ),
    "effective_rank": ("exp of the entropy of s / sum s (Roy and Vetterli 2007)", True),
    "stable_rank": ("||dW||_F^2 over the square of the largest singular value", True),
    "above_0.1": (f"singular values above .1 ({MORA}); not comparable across scales", False),
    "above_5_percent": ("singular values of at least a twentieth of the largest", False),
    "frobenius": ("the Frobenius norm of dW", False),
    "spectral": ("the largest singular value of dW", False),
}
# Their labels in a narrow table.
SHORT = {"k90": "k90", "frobenius": "||dW||", "spectral": "largest s"}


def _spectral() -> list[Measure]:
    measures = []
    for name, one in spectra.MEASURES.items():
        about, in_table = SPECTRAL[name]
        # A random change has the norm that it was given: it is no null of a scale.
        null = "" if one.depends_on_scale else GAUSSIAN
        measures.append(Measure(name, SHORT.get(name, one.label), about, null, in_table))
    return measures


MEASURES = (
    Measure(
        "relative_norm",
        "||dW|| / ||W||",
        "the Frobenius norm of dW over that of W",
        null="what rounding to the dtype of the tuned weights changes; empty for an adapter, which"
        " rounds nothing",
        in_table=True,
    ),
    *_spectral(),
    Measure(
        "k90_net",
        "k90, net",
        "k90 of dW without the errors of rounding (Gavish and Donoho 2017); empty where nothing was"
        " rounded",
    ),
    Measure("effective_rank_net", "effective rank, net", "the effective rank, likewise"),
    Measure(
        "k90_one_step",
        "k90, signs",
        "k90 of the signs of dW: the rank that one step of LionW or Adam makes of it",
    ),
    Measure("effective_rank_one_step", "effective rank, signs", "the effective rank, likewise"),
    Measure(
        "error",
        "SVD error",
        "a bound on the error of the singular values that were computed",
    ),
    Measure(
        "intruders",
        "intruders",
        "of the ten largest directions of W + dW those with a cosine below .5 to every direction of"
        f" W ({INTRUDERS})",
        null="a change with dW's singular values in random directions",
        in_table=True,
        is_total=True,
    ),
    Measure(
        "cosine_floor",
        "cosine floor",
        "the largest cosine that a random direction has to any of W, its median: an epsilon below"
        " it counts nothing, whatever changed",
    ),
    Measure(
        "similarity",
        "similarity to W",
        "the share of dW's first directions that lies in as many first ones of W, in the space of"
        f" inputs ({LORA}, section 7)",
        null="random directions",
        in_table=True,
    ),
    Measure(
        "amplification",
        "amplification",
        f"||dW||_F over the norm of what W has in dW's first directions ({LORA}, table 7)",
        null=RANDOM_DIRECTIONS,
        in_table=True,
    ),
    Measure(
        "magnitude_change",
        "|m - m0|",
        "the mean change of the norms of units, a unit being an output's weights"
        f" ({DORA}, section 3.2)",
        null="a Gaussian change of the same norm",
    ),
    Measure(
        "direction_change",
        "1 - cos",
        f"the mean change of the directions of units ({DORA}, section 3.2)",
        null="a Gaussian change of the same norm",
    ),
)
BY_NAME = {measure.name: measure for measure in MEASURES}
IN_TABLE = tuple(measure for measure in MEASURES if measure.in_table)


def columns() -> tuple[str, ...]:
    """Of files: every measure, its null beside it where it has one."""
    names: list[str] = []
    for measure in MEASURES:
        names += [measure.name, measure.null_name] if measure.null else [measure.name]
    return tuple(names)
