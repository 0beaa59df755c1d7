"""A run as `lfl_jax.analyze` reads one: its base, and the model of each step that it kept."""

import dataclasses
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from lfl_jax import quant
from lfl_jax.analysis import checkpoints
from lfl_jax.analysis.checkpoints import Base, Checkpoint, Subject
from lfl_jax.api import find
from lfl_jax.config import Config, own_code
from lfl_jax.config.own_code import Code
from lfl_jax.core.sharding import make_rules
from lfl_jax.core.types import Params
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs as evaluation_inputs
from lfl_jax.evals.tasks import perplexity
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.model import LoadedModel, Model
from lfl_jax.run_setup import base_model, earlier_run

Models = dict[int, Model]  # by step


def subject(options: Namespace) -> Subject:
    """The run of --run at its --step or --steps."""
    folder, code = Path(options.run), allowed_code(options)
    base, models = _restored(folder, options, code)
    config = earlier_run.read_config(folder, code)
    if config.adapter.over and options.second:
        models = _without_first(folder, base, models, code)
    by_name, flag = _against(base, config, options)
    return Subject(
        title=folder.absolute().name,
        base=Base(base.origin.source, base.cfg, lambda: base, code=code),
        checkpoints=tuple(_checkpoints(models, by_name, config)),
        unit="tokens, padding included",
        flags=(flag,) if flag else (),
    )


def _restored(folder: Path, options: Namespace, code: Code) -> tuple[LoadedModel, Models]:
    """The base, which is loaded once, and the models."""
    steps = _steps(folder, options, code)
    base, model, step = earlier_run.restore(
        folder, step=steps[0], model_path=options.model_path, code=code
    )
    models = {step: model}
    for later in steps[1:]:
        models[later] = earlier_run.load_onto(folder, base.model.params, step=later, code=code)
    return base, models


def _steps(folder: Path, options: Namespace, code: Code) -> list[int | str | None]:
    """The steps to read, in the order of training; None is the latest one."""
    if not options.steps:
        return [earlier_run.step_of(options.step)]
    if options.steps != "all":
        return sorted(map(_number, options.steps.split(",")))
    # A directory that is no run is named as such, and not as a run without checkpoints.
    earlier_run.read_config(folder, code)
    with Checkpoints(folder / "checkpoints", read_only=True) as saved:
        return list(saved.steps()) or [None]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--steps={text}: expected all, or steps such as 100,200,400")
    return int(text)


def _without_first(folder: Path, base: LoadedModel, models: Models, code: Code) -> Models:
    """The models with what trained over a frozen first adapter alone."""
    alone = {}
    for step, model in models.items():
        second = earlier_run.second(folder, model.adapter, base.model.params, code)
        alone[step] = model.replace(adapter=second)
    return alone


def _checkpoints(
    models: Models, by_name: Mapping[str, Params], config: Config
) -> Iterator[Checkpoint]:
    """Every step against every base."""
    tokens = config.train.batch * config.data.seq_len
    for name, params in by_name.items():
        for step, model in models.items():
            label = f"step {step}{name and f', {name}'}"
            yield checkpoints.of_model(label, params, model, float(step * tokens))


def _against(
    base: LoadedModel, config: Config, options: Namespace
) -> tuple[dict[str, Params], str]:
    """({what they are called: parameters to measure against}, what to know about them)."""
    params, form = base.model.params, base.origin.quantised
    if not form:
        return {"": params}, ""
    original = _original(base, config, options)
    if original is None:
        return {"": params}, (
            f"The base is dequantised from {form}, and dW is against those weights."
            " --original=DIR measures it against the weights before quantisation as well."
        )
    flag = (
        f"The base is quantised to {form}. dW is measured against what was quantised, and against"
        " the original weights, where what quantisation lost is a part of it."
    )
    # The last one is what the table by module is of.
    return {"against the original": original, f"against the base in {form}": params}, flag


def _original(base: LoadedModel, config: Config, options: Namespace) -> Params | None:
    """The parameters before quantisation, where they are known."""
    if options.original:
        return find(options.original).load(base.cfg, make_rules(), "float32")
    # Quantised in memory: the files of the base have the original.
    if base_model.storage_dtype(config) in quant.FORMATS:
        model = dataclasses.replace(config.model, base_dtype="float32")
        return base_model.load(dataclasses.replace(config, model=model), make_rules()).model.params
    return None


def source_texts(options: Namespace) -> list[str]:
    """What the run's source_nll is of."""
    config = earlier_run.read_config(Path(options.run), allowed_code(options))
    # Of this task alone: others would read sources that this text needs nothing of.
    only = dataclasses.replace(config.eval, tasks=("source_nll",), base_tasks=())
    inputs = evaluation_inputs.from_config(dataclasses.replace(config, eval=only))
    return [document.text for document in perplexity.documents(inputs)]


def allowed_code(options: Namespace) -> Code:
    """Of --allow_code."""
    return own_code.allowing([file for text in options.allow_code for file in text.split(",")])
