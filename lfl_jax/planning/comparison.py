"""The plan's figures beside XLA's of the same step."""

import dataclasses
from collections.abc import Sequence

from lfl_jax.planning.compiled import CompiledStep
from lfl_jax.planning.hlo import Collective
from lfl_jax.planning.memory import GIB
from lfl_jax.planning.plan import Plan


@dataclasses.dataclass(frozen=True)
class Row:
    """An amount in bytes of one device, as planned and as XLA says it."""

    what: str
    planned: float | int
    xla: int

    @property
    def difference(self) -> float:
        """Of the plan, as a share of XLA's."""
        return self.planned / self.xla - 1 if self.xla else 0.0


def memory(plan: Plan, step: CompiledStep) -> list[Row]:
    """Rows of memory; none where the step does not fit, so that XLA has no figures."""
    if step.memory is None:
        return []
    planned, xla = plan.memory, step.memory
    return [
        Row("arguments", sum(planned.arguments.values()), xla.arguments),
        Row("temporaries", sum(planned.temporaries.values()), xla.live),
        Row("training, at most", planned.training, xla.total),
    ]


def sent(plan: Plan, step: CompiledStep) -> Row:
    """What a device sends in a step's collectives."""
    received = sum(planned.bytes for planned in plan.work.collectives)
    sent_by_xla = sum(collective.sent for collective in step.collectives)
    return Row("sent in collectives, a step", received, sent_by_xla)


def lines(plan: Plan, step: CompiledStep) -> list[str]:
    """The comparison as lines of text."""
    seconds = f"compiled for {plan.topology.name} in {step.seconds:.0f} s, not run"
    # the step alone: XLA was given no evaluations
    fits = plan.memory.training <= plan.memory.available
    verdict = "a step fits" if fits else "a step does not fit"
    if step.memory is None:
        return [seconds, f"plan: {verdict}", f"XLA: {step.overflow}"]
    rows = [*memory(plan, step), sent(plan, step)]
    table = [
        f"  {row.what:<28}{row.planned / GIB:>10.2f}{row.xla / GIB:>10.2f}{row.difference:>+9.0%}"
        for row in rows
    ]
    return [
        seconds,
        f"plan: {verdict}; XLA: {step.overflow or 'fits'}",
        f"  {'GiB of a device':<28}{'plan':>10}{'XLA':>10}{'plan:XLA':>9}",
        *table,
        f"  of XLA's memory, the program itself {step.memory.code / GIB:.2f}",
        "collectives that XLA chose, a step",
        *map(_collective, _largest(step.collectives)),
    ]


def _largest(collectives: Sequence[Collective]) -> list[Collective]:
    """Those that send at least a thousandth of all."""
    least = max(1, sum(collective.sent for collective in collectives) / 1000)
    return [collective for collective in collectives if collective.sent >= least]


def _collective(x: Collective) -> str:
    bound = "at least " if x.at_least else ""
    return (
        f"  {x.kind} of {x.dtype} over {x.devices} devices: {bound}{x.times:,} times,"
        f" {x.sent / GIB:,.2f} GiB sent by a device"
    )
