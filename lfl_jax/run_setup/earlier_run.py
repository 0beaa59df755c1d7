"""What a run directory holds: its config, its base, and what was learned."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lfl_jax import adapters
from lfl_jax import state as states
from lfl_jax.adapters import second_adapter
from lfl_jax.config import Config, own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.errors import UserError
from lfl_jax.io import adapter_file, workdir
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.model import LoadedModel, Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import base_model

# In the directory of a run with config.adapter.over: the frozen adapter, from which the tree of
# both is made again.
FIRST_ADAPTER = "first_adapter.safetensors"


def read_config(folder: Path, code: Code = own_code.NOTHING) -> Config:
    """The config of a run.

    code: what of the files that it names may run, which is nothing unless somebody says so.
    """
    config = Config.from_record(workdir.read_config(folder), code)
    return config.with_record(workdir.read_code(folder))


def with_recorded_code(config: Config, folder: Path) -> Config:
    """The config for a start in this directory, with the hashes that earlier starts recorded."""
    record = workdir.read_code(folder)
    if not record:
        return config
    recorded = config.with_record(record)
    own_code.warn_of_changes(record, recorded.own_files())
    return recorded


def restore(
    folder: Path,
    *,
    step: int | str | None = None,
    rules: Rules | None = None,
    model_path: str = "",
    code: Code = own_code.NOTHING,
) -> tuple[LoadedModel, Model, int]:
    """(base, model, step) of a run at a step: a number, "best" (checkpoint.best) or the latest.

    The model's parameters are the base's own unless they trained. model_path: where the base is,
    when it was moved. code: as of `read_config`. Raises UserError when there is no such
    checkpoint, or it belongs to another base than this one.
    """
    config = read_config(folder, code)
    if model_path:
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, path=model_path)
        )
    rules = rules or make_rules()
    base = base_model.load(config, rules)
    params, fingerprint = base.model.params, base.origin.fingerprint
    return base, *_read(folder, config, params, fingerprint, step, rules)


def load_onto(
    folder: Path,
    params: dict,
    *,
    step: int | str | None = None,
    rules: Rules | None = None,
    code: Code = own_code.NOTHING,
) -> Model:
    """The model of a run's step over the parameters of its base, which are loaded already.

    No file of the base is read. step, code: as of `restore`.
    """
    config = read_config(folder, code)
    return _read(folder, config, params, tree.fingerprint(params), step, rules or make_rules())[0]


def step_of(text: str) -> int | str | None:
    """What --step=latest, best or a number means to `restore`; UserError for anything else."""
    if text.isdecimal():
        return int(text)
    if text not in ("latest", "best"):
        raise UserError(f"--step={text}: expected latest, best or a number")
    return None if text == "latest" else text


def shape_fields(cfg: ModelConfig) -> dict[str, Any]:
    """The dimensions of a model, as JSON: with them, a checkpoint is read without its base."""
    # Rotary scaling shapes no parameter.
    return {name: x for name, x in dataclasses.asdict(cfg).items() if name != "rope_scaling"}


def require_own_checkpoints(folder: Path, config: Config) -> None:
    """UserError where a directory without config.json has checkpoints of another config."""
    directory = folder / "checkpoints"
    if not directory.is_dir():
        return
    with Checkpoints(directory, read_only=True) as saved:
        trained = saved.metadata()["config"] if saved.steps() else config.hash()
    if trained != config.hash():
        raise UserError(
            f"{directory} holds checkpoints of config {trained}, this config is {config.hash()},"
            f" and there is no {workdir.CONFIG_FILE} that would say how they differ; restore it, or"
            " use another --workdir"
        )


def require_same_data(metadata: Mapping[str, Any], contents: Sequence[str], config: Config) -> None:
    """UserError when a checkpoint was trained on other data than this.

    contents: SHA-256 of every source.
    """
    trained_on = metadata["data"]
    if trained_on != list(contents):
        path = config.data.path or config.data.source
        raise UserError(
            f"{path} is not the data that this run was trained on (SHA-256 {contents[0][:12]}, the"
            f" run's is {trained_on[0][:12]}): name that with --config.data.path=FILE, or use"
            " another --workdir"
        )


def _read(
    folder: Path, config: Config, base: dict, fingerprint: str, step: int | str | None, rules: Rules
) -> tuple[Model, int]:
    with Checkpoints(
        folder / "checkpoints", best_metric=config.checkpoint.best, read_only=True
    ) as saved:
        # None is the latest step.
        number = saved.best_step() if step == "best" else step
        # No evaluation of that metric has been saved yet.
        if step == "best" and number is None:
            raise UserError(
                f"{folder}: no checkpoint was evaluated by {config.checkpoint.best}; give"
                " --step=latest"
            )
        like = _like(config, ModelConfig(**saved.metadata(number)["shape"]), rules, folder)
        restored = saved.restore(number, like, base_fingerprint=fingerprint)
    # A checkpoint has only what trained; frozen parameters are the base's own.
    trained = restored.state["params"]
    params = tree.combine(trained, base) if jax.tree.leaves(trained) else base
    return Model(params=params, adapter=restored.state["adapter"]), restored.step


def second(folder: Path, adapter: dict, params: dict, code: Code = own_code.NOTHING) -> dict:
    """The adapter that trained over a frozen first one; UserError for a run without a first."""
    if not (folder / FIRST_ADAPTER).exists():
        raise UserError(
            f"{folder} has no first adapter under the one it trained (config.adapter.over); leave"
            " out --second"
        )
    return second_adapter.without_first(
        adapter, adapter_file.load(folder / FIRST_ADAPTER, params, code=code)
    )


def _like(config: Config, cfg: ModelConfig, rules: Rules, folder: Path) -> dict[str, Any]:
    """What of a checkpoint the model needs, as `Checkpoints.restore` takes it."""
    params = llama.specs(cfg)
    adapter = adapters.specs(params, config.adapter) if config.adapter.kinds else {}
    if config.adapter.over:
        first = adapter_file.load(
            folder / FIRST_ADAPTER, spec.abstract(params), code=config.adapter.code
        )
        # The checkpoint's tree has both adapters, the frozen one first.
        adapter = second_adapter.specs_with_first(first, adapter)
    specs = Model(params=params, adapter=adapter)
    trains = tree.split(specs, states.trainable_mask(specs, config.trainable))[0]
    return {
        "adapter": spec.abstract(adapter, rules),
        "params": spec.abstract(trains.params, rules),
    }
