"""The values that the paper printed, beside a study's own: where they can be, and why where not."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from lfl_jax.assets.published import published
from lfl_jax.studies.arms import Measures

# {a learning task of ours: the paper's}, and the settings that have it.
SETTINGS = {"gsm8k": ("math_cpt", "math_ift"), "humaneval": ("code_cpt", "code_ift")}
FORGETTING = ("mean_of_three", "gauntlet_mean_of_three")
LABELS = {
    "code_cpt": "code, continued pretraining",
    "code_ift": "code, instruction finetuning",
    "math_cpt": "maths, continued pretraining",
    "math_ift": "maths, instruction finetuning",
}


@dataclass(frozen=True)
class Sweep:
    """A method of the paper in one setting: what it scored after each amount of training.

    amounts: in `unit`. learned: accuracies. forgotten: the base's mean of three less the method's.
    """

    setting: str
    method: str
    unit: str
    amounts: tuple[float, ...]
    learned: tuple[float, ...]
    forgotten: tuple[float, ...]


def sweeps() -> list[Sweep]:
    """Every method of the paper's second version, whose tables are complete."""
    return list(itertools.chain(*map(_sweeps, LABELS)))


def _sweeps(setting: str) -> Iterable[Sweep]:
    values = published("v2")
    columns, base = values[setting], values["base"]["forgetting"]
    unit = "epochs" if "epochs" in columns else "tokens_billions"
    amounts = tuple(map(float, columns[unit]))
    for method, scores in columns[_task(setting)].items():
        forgotten = tuple(base - score for score in columns["forgetting"][method])
        yield Sweep(LABELS[setting], method, unit, amounts, tuple(scores), forgotten)


def first_version() -> list[tuple[str, str, float]]:
    """(setting, method, learned) of the single figures that the first version's text states.

    Its methods and protocol are others: ranks 16 and 256, and no gate_proj among the targets.
    """
    values = published("v1")
    rows = []
    for setting, label in LABELS.items():
        printed = values.get(setting, {}).get(_task(setting), {})
        rows += [(label, method, learned) for method, learned in printed.items()]
    return rows


def _task(setting: str) -> str:
    (task,) = (name for name in SETTINGS if setting in SETTINGS[name])
    return task


def base_learning(setting: str) -> float:
    """The base's accuracy on the task of a setting, by the setting's name in the file."""
    return published("v2")["base"][_task(setting)]


def comparable(measures: Measures) -> list[Sweep]:
    """The paper's values on the same axes: of the same task, and the same mean of forgetting."""
    settings = {LABELS[setting] for setting in SETTINGS.get(measures.learning.task, ())}
    if measures.forgetting.task not in FORGETTING:
        return []
    return [sweep for sweep in sweeps() if sweep.setting in settings]


def why_not(measures: Measures) -> str:
    """A sentence: why the paper's values are not on the study's axes, or that they are."""
    learned, forgotten = measures.learning.task, measures.forgetting.task
    differ = []
    if learned not in SETTINGS:
        differ.append(f"learned is {learned} and not {' or '.join(SETTINGS)}")
    if forgotten not in FORGETTING:
        differ.append(f"forgotten is {forgotten} and not the mean of three accuracies")
    if not differ:
        return "Its learning and forgetting are this study's measures, of another base."
    return f"It is not drawn on this study's axes: {', and '.join(differ)}."
