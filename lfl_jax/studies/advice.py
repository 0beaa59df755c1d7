"""What the data say of the paper's advice on LoRA, and the config to use after it.

    python -m lfl_jax.studies.advice CONFIG=DIR CONFIG=DIR ...

CONFIG is that of a study and DIR its directory, as configs/studies/advice.py lists them. Each of
the five pieces of advice (arXiv 2405.09673) is asked by a contrast of its own, of the first study
that can tell: every arm at its own best learning rate, chosen on other seeds, corrected for the
number of questions. At the end stands the config to use: what the advice says where it holds or is
undecided, else what learned most; and the learning rate that was best for it. What is said of each
piece goes into the report of the first study, too, as tables/advice_claims.csv.

Runs that are not finished are left out, as from the studies' reports.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lfl_jax.config.page_parser import PageParser
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError, entry
from lfl_jax.report import html
from lfl_jax.report.study.tables import claims_table
from lfl_jax.run_setup import base_model
from lfl_jax.studies import claims, grid, outcome, recommended
from lfl_jax.studies.claims.advice import ADVICE, Answered
from lfl_jax.studies.grid import PlannedRun, StudyConfig
from lfl_jax.studies.recommended import WORDS
from lfl_jax.studies.running.execute import Study

# A word of the configs that train on running text.
CPT = re.compile(r"(^|[_:,])cpt($|[_:,])")


def main(argv: Sequence[str]) -> None:
    """The command above."""
    parser = PageParser("studies.advice", __doc__)
    parser.add_argument("studies", nargs="*")
    options = parser.parse_args(list(argv[1:]))
    if not options.studies:
        raise UserError("expected studies, CONFIG=DIR each; --help names those of the paper")
    places = list(map(_place, options.studies))
    studies = [read(*place) for place in places]

    results = claims.check_all(ADVICE, studies)
    statuses = {result.name: result.checked.status for result in results}
    (_, first), *_ = places
    html.write_parts((), (), [claims_table("advice_claims", results)], first / "report")
    console = Console()
    for line in (*map(sentence, results), "", *recommended.config(studies, statuses)):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _place(text: str) -> tuple[str, Path]:
    config, equals, folder = text.partition("=")
    if not equals or not config or not folder:
        raise UserError(f"{text!r}: expected CONFIG=DIR, as configs/studies/lab.py=studies/lab")
    if not Path(folder).is_dir():
        raise UserError(f"{text}: there is no directory {folder}; run the study first")
    return config, Path(folder)


def read(place: str, folder: Path) -> Answered:
    """A study's findings; UserError for another config, and where no run finished."""
    config = grid.load(place)
    study = Study(folder.absolute(), grid.expand(config))
    findings = outcome.findings(config, study, study.states())
    is_cpt = CPT.search(config.base) is not None
    return Answered(findings, config.base, is_cpt, epochs_of(config, study.runs))


def epochs_of(config: StudyConfig, runs: Sequence[PlannedRun]) -> dict[int, float]:
    """{steps: passes over the data}, of a study of several lengths."""
    if len(config.steps) < 2:
        # Counting rows reads the data, which nobody asks about here.
        return {}
    run = runs[0].config
    source = open_source(run.data, "train", run.seed.data)
    tokenized = TokenizedSource(source, base_model.tokenizer(run), run.data)
    # Of a large source they are estimated from a sample.
    rows = estimate_rows(tokenized, seed=run.seed.data, epochs=1).stats.rows
    return {steps: steps * run.train.batch / rows for steps in config.steps}


def sentence(result: claims.Result) -> str:
    """A piece of advice, what the data say of it, and the numbers."""
    word = WORDS[result.checked.status]
    return f"{result.claim.text} {word.capitalize()}: {result.evidence}."


if __name__ == "__main__":
    entry(main)
