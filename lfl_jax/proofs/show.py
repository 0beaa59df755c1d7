"""What the checks found, as a table, as JSON, and line by line while they run."""

import collections
import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lfl_jax.errors import printable
from lfl_jax.proofs.checks import Checked
from lfl_jax.proofs.finding import FAILED, NOT_APPLICABLE, PROVED
from lfl_jax.proofs.reduced import ReducedRun

COLOURS = {PROVED: "green", FAILED: "bold red", NOT_APPLICABLE: "bright_black"}
NAMES = {PROVED: "proved", FAILED: "FAILED", NOT_APPLICABLE: "n/a"}


def progress_line(checked: Checked, number: int, count: int) -> str:
    """A line for a check that has just ended."""
    outcome = checked.finding.outcome
    return f"{number}/{count} {checked.name}: {outcome}, {checked.seconds:.1f} s"


def as_values(run: ReducedRun, checks: Sequence[Checked], seconds: float | int) -> dict:
    """Everything as plain values."""
    rows = [
        {"check": x.name, "seconds": round(x.seconds, 2)} | dataclasses.asdict(x.finding)
        for x in checks
    ]
    return {
        "config": run.full.hash(),
        "reduced": list(run.notes),
        "failed": [x.name for x in checks if x.finding.failed],
        "seconds": round(seconds, 1),
        "checks": rows,
    }


def show(
    run: ReducedRun, checks: Sequence[Checked], seconds: float | int, console: Console
) -> None:
    """Print the table, why checks failed, and at which size they were made."""
    plain = {"highlight": False, "markup": False, "soft_wrap": True}
    say = lambda text: console.print(text, **plain)  # noqa: E731
    console.print(_table(checks))
    say("")
    for x in checks:
        if x.finding.failed:
            say(f"FAILED {x.name}: {printable(x.finding.reason)}")
    config, cfg = run.config, run.cfg
    size = (
        f"{cfg.n_layers} layers of {cfg.d_model}, {'+'.join(config.adapter.kinds) or 'no adapter'}"
    )
    rows = f"{config.train.batch} x {config.data.seq_len} tokens"
    say(f"at reduced size: {size}, {rows}, {config.train.steps} steps of {config.optim.name}")
    for note in run.notes:
        say(f"  {printable(note)}")
    outcomes = collections.Counter(x.finding.outcome for x in checks)
    counts = ", ".join(f"{outcomes[name]} {name}" for name in COLOURS)
    say(f"{counts}; {seconds:.0f} s")


def _table(checks: Sequence[Checked]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("check", "", "measured", "bound"):
        table.add_column(title, overflow="fold")
    table.add_column("s", justify="right")
    for x in checks:
        outcome = Text(NAMES[x.finding.outcome], style=COLOURS[x.finding.outcome])
        # A check that says nothing of this config has its reason in place of what it measured.
        is_reason = not x.finding.measured and not x.finding.failed
        measured = printable(x.finding.reason if is_reason else x.finding.measured)
        row = (Text(x.name), outcome, Text(measured), Text(x.finding.bound))
        table.add_row(*row, Text(f"{x.seconds:.1f}"))
    return table
