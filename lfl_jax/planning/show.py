"""A plan on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lfl_jax.planning.bands import Band, Number
from lfl_jax.planning.memory import GIB
from lfl_jax.planning.plan import Plan
from lfl_jax.planning.search import Candidate

STYLE = {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False, "show_header": False}
MOST = 12  # candidates of a search that are shown


def show(plan: Plan, price: Number, console: Console) -> None:
    """The answer in a line, the tables of memory and of a step, and the run's length and cost."""
    plain = {"highlight": False, "markup": False, "soft_wrap": True}
    say = lambda text: console.print(text, **plain)  # noqa: E731
    say(_headline(plan))
    say("")
    console.print(_memory(plan))
    say("")
    console.print(_step(plan))
    say("")
    console.print(_run(plan, price))
    say("")
    for line in (*(f"warning: {text}" for text in plan.warnings), *_advice(plan)):
        say(line)


def _headline(plan: Plan) -> str:
    config, layout = plan.layout.config, plan.layout
    trains = "+".join(config.adapter.kinds) or "full finetuning"
    rank = f" rank {config.adapter.rank}" if config.adapter.rank else ""
    rows = config.train.rows
    return (
        f"{config.model.name}, {trains}{rank}, {config.train.batch} x {config.data.seq_len} tokens"
        f" a step ({layout.microbatches} x {rows} rows), remat {config.model.remat}\n"
        f"{plan.topology.name}: {plan.topology.chips} chips, mesh {layout.mesh}"
        + (f", chosen for {plan.why}" if plan.why else "")
    )


def _memory(plan: Plan) -> Table:
    table, memory = Table("", "", title="Bytes of a device, GiB", **_titled()), plan.memory
    for terms in (memory.arguments, memory.temporaries):
        for name, size in terms.items():
            # a term of nothing, such as sums over one microbatch, is left out
            if size:
                table.add_row(f"  {name}", _gib(size))
    table.add_row("training, at most", _gib(memory.training))
    table.add_row("  KV cache, in evaluations", _gib(memory.evaluation["KV cache"]))
    table.add_row("evaluations, at most", _gib(memory.evaluating))
    table.add_row("available", _gib(memory.available))
    return table


def _step(plan: Plan) -> Table:
    table, flops, time = Table("", "", title="A step", **_titled()), plan.flops, plan.time
    table.add_row("  FLOPs a token, products", f"{flops.products:.3g}")
    table.add_row("  recomputed (remat)", f"{flops.recomputed:.3g}")
    table.add_row("  attention", f"{flops.attention:.3g}")
    for collective in plan.work.collectives:
        what = f"  {collective.what}, {collective.kind}"
        table.add_row(what, f"{collective.bytes / GIB:.3g} GiB a device")
    table.add_row("seconds of products, at the peak", f"{time.products:.3g}")
    table.add_row("seconds of memory, at the peak", f"{time.memory:.3g}")
    table.add_row("seconds of links, at the peak", f"{time.collectives:.3g}")
    table.add_row("seconds a step", _band(time.total))
    tokens = plan.layout.config.train.batch * plan.layout.config.data.seq_len
    rates = Band(tokens / time.total.slow, tokens / time.total.fast)
    table.add_row("tokens/s, all chips", _band(rates))
    return table


def _run(plan: Plan, price: Number) -> Table:
    table, run = Table("", "", title="The whole run", **_titled()), plan.run
    if run.steps.fewest is None:
        table.add_row("optimizer steps", f"unknown: {run.steps.why}")
    else:
        counts = dict.fromkeys(f"{n:,}" for n in (run.steps.fewest, run.steps.most))
        table.add_row("optimizer steps", " to ".join(counts))
        table.add_row("  from", run.steps.why)
        tokens = dict.fromkeys(f"{n / 1e6:,.3g}M" for n in run.tokens)
        table.add_row("tokens, padding included", " to ".join(tokens))
        table.add_row("hours, training", _band(run.training))
    table.add_row("hours, evaluations", _band(run.evaluating))
    if run.unknown:
        table.add_row("  without", ", ".join(run.unknown))
    if run.hours is not None:
        chip_hours = run.hours * plan.topology.chips
        table.add_row("chip-hours", _band(chip_hours))
        if price:
            table.add_row(f"cost, at {price:g} per chip-hour", _band(chip_hours * price))
    return table


def _advice(plan: Plan) -> list[str]:
    name, size = plan.memory.tightest
    share = plan.memory.peak / plan.memory.available
    fits = "fits" if plan.memory.fits else "does not fit"
    line = (
        f"{fits}: {share:.0%} of the memory; the largest term is {name} ({_gib(size).strip()} GiB)"
    )
    if plan.memory.fits:
        return [line]
    if plan.nearest is None:
        return [line, "no mesh, microbatch or remat on this topology fits: take more chips, or"
                " --config.model.base_dtype=nf4"]  # fmt: skip
    return [line, "the nearest that fits: " + " ".join(plan.nearest.flags)]


def show_search(ranking: Sequence[Candidate], topology: str, console: Console) -> None:
    """The fastest candidates, and the flags of the first."""
    if not ranking:
        console.print(f"nothing fits {topology}: take more chips", highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("data", "fsdp", "tensor", "rows", "remat", "GiB", "seconds a step"):
        table.add_column(name, justify="left" if name in ("remat",) else "right")
    for candidate in ranking[:MOST]:
        mesh = candidate.layout.mesh
        sizes = [str(n) for n in (mesh.data, mesh.fsdp, mesh.tensor, candidate.rows)]
        cells = [
            candidate.layout.config.model.remat,
            _gib(candidate.memory.peak),
            _band(candidate.time.total),
        ]
        table.add_row(*sizes, *cells)
    console.print(table)
    console.print(f"\n{len(ranking)} fit; the first one's flags:", highlight=False)
    console.print(" ".join(ranking[0].flags), highlight=False, soft_wrap=True)


def _titled() -> dict:
    return STYLE | {"title_justify": "left", "title_style": "bold"}


def _gib(size: Number) -> str:
    return f"{size / GIB:8.3f}"


def _band(band: Band) -> str:
    return f"{band.fast:.3g} to {band.slow:.3g}"
