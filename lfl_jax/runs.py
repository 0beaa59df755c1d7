"""What a run directory holds: its config, its base, and what was learned."""

import dataclasses
from pathlib import Path

from lfl_jax import adapters, base_model
from lfl_jax import state as states
from lfl_jax.base_model import Base
from lfl_jax.config import Config
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.io import workdir
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A base, and params and adapter as they were at a step; params are the base's own unless they trained."""

    config: Config
    base: Base
    params: dict
    adapter: dict
    step: int


def restore(folder: Path, *, step: int | str | None = None, rules: Rules | None = None) -> Tuned:
    """The model of a run at a step: a number, "best" (by config.checkpoint.best), or the latest.

    Raises UserError when there is no such checkpoint, or it belongs to another base than the one found now.
    """
    config = Config.from_record(workdir.read_config(folder))
    rules = rules or make_rules()
    base = base_model.load(config, rules)
    params, adapter, step = _read(folder, config, base.params, base.cfg, base.fingerprint, step, rules)
    return Tuned(config, base, params, adapter, step)


def load_onto(folder: Path, params: dict, rules: Rules | None = None) -> tuple[dict, dict]:
    """(params, adapter) of a run's latest step over its base's parameters, which are loaded already."""
    config = Config.from_record(workdir.read_config(folder))
    return _read(
        folder, config, params, base_model.shape(config), tree.fingerprint(params), None, rules or make_rules()
    )[:2]


def _read(
    folder: Path, config: Config, base: dict, cfg: ModelConfig, fingerprint: str, step: int | str | None, rules: Rules
) -> tuple[dict, dict, int]:
    specs = {"params": llama.specs(cfg), "adapter": {}}
    if config.adapter.kinds:
        specs["adapter"] = adapters.specs(specs["params"], config.adapter)
    trains = tree.split(specs, states.trainable_mask(specs, config.trainable))[0]
    like = {"adapter": spec.abstract(specs["adapter"], rules), "params": spec.abstract(trains["params"], rules)}
    with Checkpoints(folder / "checkpoints", best_metric=config.checkpoint.best, read_only=True) as saved:
        number = saved.best_step() if step == "best" else step
        found = saved.restore(number, like, base_fingerprint=fingerprint)
    return tree.combine(found.state["params"], base), found.state["adapter"], found.step
