"""What kind of method each arm of a study is, which claims about LoRA have to know."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from lfl_jax.config import Config
from lfl_jax.studies.grid import PlannedRun

# In place of the run that one of a later task starts from.
EARLIER = "the task before"
FULL, LORA, SUBSPACE, DERIVED = "full", "lora", "subspace", "derived"


@dataclass(frozen=True)
class Traits:
    """kind: "full", or of the adapter ("lora", "dora", ...). rank, targets: of an adapter.

    rest: all else that is configured, equal where arms differ in kind, size and targets alone.
    regulariser: what of it keeps weights or activations small, such as "weight decay 0.001".
    settings: {"optim.name": its value} of what an arm may set; none where only names are known.
    """

    kind: str
    rank: int | None = None
    targets: tuple[str, ...] = ()
    rest: str = ""
    regulariser: str = ""
    settings: Mapping[str, object] = field(default_factory=dict, compare=False)

    def differs_in(self, other: "Traits") -> frozenset[str]:
        """Names of the settings in which two methods differ."""
        names = self.settings.keys() | other.settings.keys()
        return frozenset(n for n in names if self.settings.get(n) != other.settings.get(n))


def of_names(methods: Iterable[str]) -> dict[str, Traits]:
    """{method: its traits} by what it is called, where only names are known.

    The first word of a name is its kind, a word such as r16 its rank: "lora_r16", "full", "dora".
    """
    return {method: _of_name(method) for method in methods}


def of_runs(runs: Sequence[PlannedRun]) -> dict[str, Traits]:
    """{arm: its traits} by the configs of a study."""
    one_each = {run.arm: run for run in runs}
    # An arm that alters others' runs is no method of training.
    return {
        arm: Traits(DERIVED, rest=run.source) if run.source else _of_config(run.config)
        for arm, run in one_each.items()
    }


def _of_name(method: str) -> Traits:
    kind, *words = re.split(r"[^a-z0-9=]+", method.lower())
    ranks = [word for word in words if re.fullmatch(r"r=?\d+", word)]
    rest = " ".join(word for word in words if word not in ranks)
    regulariser = " ".join(word for word in words if word in ("decay", "dropout"))
    rank = int(ranks[0].lstrip("r=")) if ranks else None
    return Traits(kind, rank, rest=rest, regulariser=regulariser)


def _of_config(config: Config) -> Traits:
    config = _started_anywhere(config)
    adapter = config.adapter
    # Without an adapter whatever trains is the parameters themselves.
    kind = FULL if adapter.kind == "none" else adapter.kind
    # alpha follows the rank in most studies, so that it is no difference of its own; a subspace has
    # a number of dimensions in place of a rank.
    sizes = {"rank": None, "alpha": None, "subspace_dim": 1}
    others = dataclasses.replace(adapter, kind="lora", targets=(), **sizes)
    sections = {name: getattr(config, name) for name in ("optim", "model", "data", "penalty")}
    optim = dataclasses.replace(sections.pop("optim"), lr=0.0)
    rest = repr((others, config.trainable, optim, sections))
    known = {"rest": rest, "regulariser": _regulariser(config), "settings": _settings(config)}
    if adapter.kind == "none":
        return Traits(kind, **known)
    return Traits(kind, adapter.rank, adapter.targets, **known)


def _started_anywhere(config: Config) -> Config:
    """The config with what a task does to the earlier ones, but not which run those are."""
    adapter = config.adapter
    if not adapter.start_config:
        return config
    earlier = {name: EARLIER for name in ("path", "over") if getattr(adapter, name)}
    return dataclasses.replace(
        config, adapter=dataclasses.replace(adapter, start_config="", **earlier)
    )


def _settings(config: Config) -> dict[str, object]:
    """What tells arms apart; not the learning rate, of which every arm has several."""
    settings: dict[str, object] = {"trainable": config.trainable}
    for name in ("adapter", "optim", "model", "data", "penalty"):
        section = getattr(config, name)
        settings |= {f"{name}.{one.name}": getattr(section, one.name) for one in fields(section)}
    del settings["optim.lr"]
    if config.adapter.rank and config.adapter.alpha is None:
        # Its default, so that it is the same alpha whether it was written or not.
        settings["adapter.alpha"] = 2.0 * config.adapter.rank
    return settings


def _regulariser(config: Config) -> str:
    fractions = {
        "weight decay": config.optim.weight_decay,
        "attention dropout": config.model.attention_dropout,
        "adapter dropout": config.adapter.dropout if config.adapter.kinds else 0.0,
    }
    return ", ".join(f"{name} {fraction:g}" for name, fraction in fractions.items() if fraction)
