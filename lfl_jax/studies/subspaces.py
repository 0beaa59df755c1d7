"""Which directions do ranks and seeds share, and which of W does a change amplify?

    python -m lfl_jax.studies.subspaces studies/subspaces

The directory is that of a study with a report whose runs kept their weights, such as
configs/studies/subspaces.py. Every arm is read at its longest length and the learning rate at which
it learned most, all seeds; every two arms are compared, and every arm with itself under other
seeds, module by module and layer by layer, each beside random directions. Into the study's report:
tables/subspace_similarity.csv, tables/amplification.csv, tables/subspace_claims.csv (findings of
arXiv 2106.09685, sections 7.2 and 7.3, checked by rules), figures/subspaces.svg and
figures/subspaces_along.svg, with .png and .pdf.
--arms=A,B         only these arms (default: all that trained)
--modules=q,v      only these modules (default: all that changed)
--directions=K     first directions that are compared (default: 16, or as many as an adapter has)
--quiet            without progress

Intervals are over seeds. Pairs of runs that share a seed are not independent: what is a mean over
pairs has the error that leaving out each seed in turn gives, with as many degrees of freedom as
seeds less one.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lfl_jax.config.page_parser import PageParser
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError, entry
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.progress import progress
from lfl_jax.report import html
from lfl_jax.report.study import subspaces as tables
from lfl_jax.report.study.tables import claims_table
from lfl_jax.run_setup import base_model, earlier_run, run_length
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies import best_arms, claims, directions
from lfl_jax.studies.best_arms import Arm
from lfl_jax.studies.claims import directions as published
from lfl_jax.studies.directions import Directions, RunDirections
from lfl_jax.studies.traits import LORA


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = PageParser("studies.subspaces", __doc__)
    parser.add_argument("folders", nargs="*")
    parser.texts("arms", "modules")
    parser.add_argument("--directions", type=int, default=16)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(list(argv[1:]))
    _require_usable(options)
    html.require_extra()
    folder = Path(options.folders[0])
    arms = best_arms.read(folder, _words(options.arms))
    compared = read(arms, options)
    write(compared, folder / "report")
    console = Console()
    show(compared, arms, console)
    console.print(f"written to {folder / 'report'}", soft_wrap=True, markup=False)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _require_usable(options: Namespace) -> None:
    if len(options.folders) != 1:
        raise UserError(
            "expected the directory of a study: python -m lfl_jax.studies.subspaces DIR"
        )
    if options.directions < 1:
        raise UserError(f"--directions={options.directions}: expected at least 1")
    known = [module.rpartition("/")[2] for module in MODULES]
    unknown = [name for name in _words(options.modules) if name not in known]
    if unknown:
        raise UserError(f"--modules: no module {unknown[0]!r}; there are {', '.join(known)}")


def read(arms: Sequence[Arm], options: Namespace) -> Directions:
    """The directions of every run, compared; UserError for a run whose weights are not there."""
    reader = _Reader(Shared(), {}, options.directions, frozenset(_words(options.modules)))
    runs, ranks = {}, {}
    total = sum(len(arm.folders) for arm in arms)
    with progress(total, "runs", visible=not options.quiet) as advance:
        for arm in arms:
            adapter = earlier_run.read_config(next(iter(arm.folders.values()))).adapter
            # A rank of another kind is no LoRA's, and a claim is of LoRA's.
            if adapter.kind == LORA:
                ranks[arm.name] = adapter.rank
            runs[arm.name] = []
            for folder in arm.folders.values():
                runs[arm.name].append(reader.read(folder))
                advance(1)
    return directions.compare(runs, ranks, list(arms[0].folders))


@dataclass(frozen=True)
class _Reader:
    """Reads runs one after another; they share their base, and the singular values of its W.

    count: first directions. modules: that are read, all for none.
    """

    shared: Shared
    spectra: directions.BaseSpectra
    count: int
    modules: frozenset[str]

    def read(self, folder: Path) -> RunDirections:
        """Of every chosen weight that the run changed; UserError for a change that is zero."""
        config = earlier_run.read_config(folder)
        # Before the base is loaded, which may take long.
        if not run_length.last_checkpoint(folder):
            raise UserError(
                f"{folder} has no checkpoint: its study did not keep weights (checkpoints)"
            )
        rules = make_rules(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        base = base_model.load(config, rules, self.shared, trains=False).model.params
        tuned = earlier_run.load_onto(folder, base, rules=rules)
        try:
            by_weight = directions.of_run(base, tuned, self.count, self.spectra, self._is_chosen)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        if not by_weight:
            raise UserError(f"{folder}: it changed none of {', '.join(sorted(self.modules))}")
        return by_weight

    def _is_chosen(self, name: str) -> bool:
        return not self.modules or name.rpartition("/")[2] in self.modules


def write(compared: Directions, folder: Path) -> None:
    """Tables and figures into a study's report."""
    # matplotlib is slow to import.
    from lfl_jax.report.study.figures import subspaces as figures

    checked = claims_table("subspace_claims", claims.check_all(published.CLAIMS, compared))
    written = (tables.similarity(compared), tables.amplification(compared), checked)
    drawn = list(figures.draw(compared))
    html.write_parts(drawn, [figure.svg() for figure in drawn], written, folder)


def show(compared: Directions, arms: Sequence[Arm], console: Console) -> None:
    """Print what holds of all weights together, and of every claim."""
    rates = ", ".join(f"{arm.name} at {arm.rate:g}" for arm in arms)
    seeds = ", ".join(map(str, compared.seeds))
    # Names of arms are the user's: brackets in them are no markup.
    console.print(f"{rates}; seeds {seeds}", soft_wrap=True, markup=False)
    for table in (tables.similarity_in_short(compared), tables.amplification_in_short(compared)):
        console.print(table.printed())
    for one in claims.check_all(published.CLAIMS, compared):
        sentence = f"{one.claim.text} {one.checked.status.capitalize()}: {one.evidence}."
        console.print(sentence, soft_wrap=True, markup=False)


if __name__ == "__main__":
    entry(main)
