"""The paper's own frontier, in its own units."""

from typing import TYPE_CHECKING

from lfl_jax.report.study.figures.style import INK, Figure, draw_legend, looks
from lfl_jax.report.study.tables import Table
from lfl_jax.studies import published as values
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.published import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NAMES = {"r16": "LoRA r16", "r64": "LoRA r64", "r256": "LoRA r256", "full": "full"}


def published(findings: Findings) -> Figure:
    """Four panels, a setting each; the axes of no panel are the study's."""
    sweeps = values.sweeps()
    rows = [
        ("v2", sweep.setting, sweep.method, sweep.unit, *numbers)
        for sweep in sweeps
        for numbers in zip(sweep.amounts, sweep.learned, sweep.forgotten, strict=True)
    ]
    # Single figures of its text, without an amount of training or a forgetting of their own.
    rows += [
        ("v1", *where, None, None, learned, None) for *where, learned in values.first_version()
    ]
    return Figure(
        "published",
        "What the paper found",
        "Values that the paper printed (arXiv 2405.09673, second version, tables S1 to S8):"
        " Llama-2-7B, one learning rate a method, without errors. Learned: accuracy on HumanEval or"
        " GSM8K. Forgotten: the base's mean accuracy on HellaSwag, ARC-Challenge and WinoGrande"
        " less the method's. Lines go from little to much training, each point a finished schedule;"
        " hollow, because none of them is this study's. The first version's single figures are in"
        f" the data. {values.why_not(findings.question.measures)}",
        Table(
            "published",
            "The paper's values.",
            ("version", "setting", "method", "unit", "training", "learning", "forgetting"),
            tuple(rows),
        ),
        _paint,
        (5.2, 5.6),
    )


def _paint(canvas: "Canvas") -> None:
    panels = canvas.subplots(2, 2).ravel()
    sweeps = values.sweeps()
    for axes, (setting, label) in zip(panels, values.LABELS.items(), strict=True):
        _draw_setting(axes, [sweep for sweep in sweeps if sweep.setting == label])
        task, form = label.split(", ")
        axes.set_title(f"{task}\n{form}", fontsize=8, loc="left")
        axes.plot(values.base_learning(setting), 0, "*", color=INK, ms=8, label="base", ls="none")
        axes.tick_params(labelsize=8)
    for axes in panels[2:]:
        axes.set(xlabel="learned")
    for axes in panels[::2]:
        axes.set(ylabel="forgotten")
    draw_legend(canvas, panels[0])


def _draw_setting(axes: "Axes", sweeps: list[Sweep]) -> None:
    for sweep, look in zip(sweeps, looks(NAMES).values(), strict=True):
        style = {"color": look.colour, "marker": look.marker, "ms": 4.5, "mfc": "none", "lw": 1}
        axes.plot(sweep.learned, sweep.forgotten, label=NAMES[sweep.method], **style)
