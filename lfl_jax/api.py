"""A model, an adapter and text in a few lines: what `import lfl_jax` offers. Everything here is a
plain function.

params, cfg, tokenizer = lfl_jax.load("smollm2-135m")
params, adapter = lfl_jax.load_adapter("runs/quickstart", params)
print(lfl_jax.generate(params, cfg, tokenizer, ["Question: ..."], adapter=adapter)[0])

outcome = lfl_jax.run(lfl_jax.get_config("math_ift:full", **{"optim.lr": 1e-3}), "runs/mine")
table = pandas.DataFrame(outcome.to_rows())
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.console import Console

from lfl_jax import assets, notices, sample, train
from lfl_jax.adapters import replaced_parameters
from lfl_jax.adapters.adapter_tree import as_adapter_and_params, as_params
from lfl_jax.adapters.build import require_bound
from lfl_jax.analysis import contamination
from lfl_jax.config import Config, command_line, locations, own_code
from lfl_jax.config.own_code import Own
from lfl_jax.core import hosts, tree
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import suite
from lfl_jax.evals.run import Result
from lfl_jax.io import adapter_file, hf, peft, pretrained, wandb_log
from lfl_jax.io.pretrained import Pretrained
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.report import describe, plots, results_json, table
from lfl_jax.report.rows import Report, report
from lfl_jax.run_setup import adapter_formats
from lfl_jax.text.stops import contains_stop, truncate_at_stop
from lfl_jax.text.tokenizers import Tokenizer

AnyPath = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of a run: every task before and after training, paired, and figures of the training.

    finished: False for a run that was interrupted and saved; it then has no report, and `run` with
    the same arguments
    resumes it. trained: optimizer steps of this call. facts: what results.json has under "facts".
    """

    config: Config = dataclasses.field(repr=False)
    workdir: Path
    finished: bool
    trained: int
    facts: dict[str, Any]
    before: dict[str, Result] = dataclasses.field(repr=False)
    after: dict[str, Result] = dataclasses.field(repr=False)
    report: Report | None = dataclasses.field(repr=False)

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict per task, metric and variant ("before", "after", "change"), for
        pandas.DataFrame."""
        return [] if self.report is None else self.report.to_rows()

    def show(self, console: Console | None = None) -> None:
        """Print the table of the run."""
        if self.report is not None:
            figures = describe.figures(self.facts)
            flags = describe.flags(self.facts["provenance"])
            table.show(self.report, figures, flags, self.workdir, console or Console())


def get_config(name: str, *, allow_code: Iterable[AnyPath] = (), **fields: Any) -> Config:
    """The config of a name with words, "math_ift:full,r=4", or of FILE.py, with fields in place of
    its own.

    get_config("math_ift:smoke", **{"optim.lr": 1e-3, "eval.tasks": ("gsm8k:8",)}). allow_code:
    files that the record of a run names ("from_run:DIR"), and that may run. UserError says
    everything that is wrong together.
    """
    texts = {path: "none" if value is None else value for path, value in fields.items()}
    return command_line.configured(name, texts, allow_code=[os.fspath(file) for file in allow_code])


def run(
    config: Config | str,
    workdir: AnyPath,
    *,
    own: Own = Own(),  # noqa: B008 (frozen)
    allow_code: Iterable[AnyPath] = (),
    quiet: bool = False,
) -> Outcome:
    """Evaluate the base, train, evaluate again; everything goes to the run directory, as `python -m
    lfl_jax.main` does.

    config: of `get_config`, or its name. own: objects in place of what the config names; the tasks
    are evaluated, too.
    allow_code: files that the config names. quiet: no progress. A run that was interrupted is
    resumed, a finished one is read back. Raises UserError for mistakes, NonFiniteLoss when training
    diverged.
    """
    keep_compiled_programs(assets.writable("compiled"))
    given = get_config(config) if isinstance(config, str) else config
    code = own_code.allowing(allow_code)
    given = given.with_own(own).allowing(code.allowed)
    folder = Path(locations.absolute(os.fspath(workdir), Path.cwd()))
    with notices.collected() as warnings:
        found = train.run(train.Run(given, folder, tuple(own.tasks), quiet))
    results = Outcome(
        given, folder, found.finished, found.trained, found.facts, found.before, found.after, None
    )
    if not found.finished:
        return results
    results = dataclasses.replace(
        results, report=report(found.before, found.after, contamination.read(folder))
    )
    if not found.trained:  # the run was at its end before: the figures of its training stand
        results = dataclasses.replace(
            results, facts=results_json.saved_facts(folder) or found.facts
        )
    # also where the other figures are an earlier start's
    results.facts["provenance"]["warnings"] = warnings
    if hosts.is_first():
        _write(results)
    return results


def _write(results: Outcome) -> None:
    """results.json, summary.txt and the pictures."""
    folder, variants = results.workdir, {"base": results.before, "tuned": results.after}
    results_json.save(results.report, results.facts, folder)
    with (folder / "summary.txt").open("w", encoding="utf-8") as file:
        results.show(Console(file=file, width=120))
    plots.draw(results.report, variants, folder)
    if results.config.log.wandb:
        when = {"before": results.before, "after": results.after}
        scores = {
            f"{name}/{task}": x
            for name, found in when.items()
            for task, x in suite.flat(found).items()
        }
        wandb_log.report(results.config.log.wandb, folder, results.config.values(), scores)


def load(
    path_or_name: AnyPath,
    *,
    dtype: str = "float32",
    rules: Rules | None = None,
    tokenizer: AnyPath | None = None,
) -> tuple[dict, ModelConfig, Tokenizer]:
    """A pretrained model: (params, cfg, tokenizer), from a Hugging Face folder, a GGUF file, a
    fetched name, or a hub's repository (hf:ORG/NAME[@REVISION], fetched first where it is not
    here).

    dtype: float32, bfloat16, or int8 or nf4 for its linear weights (quantised, for adapters to
    train over).
    rules: the mesh to put it on; by default all devices, sharded. tokenizer: a folder, file or
    fetched name to take in place of what came with the weights. Raises UserError for what is not
    there or damaged.
    """
    found = find(path_or_name)
    named = (
        None if tokenizer is None else pretrained.open_tokenizer(os.fspath(tokenizer), found.cfg)
    )
    # first: a folder without one is refused before its weights are read
    opened = named or found.tokenizer()
    return found.load(found.cfg, rules or make_rules(), dtype), found.cfg, opened


def save(
    path: AnyPath,
    params: dict,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    *,
    dtype: str = "bfloat16",
    dequantised_from: str | None = None,
) -> None:
    """Write a Hugging Face folder with weights, config and tokenizer; dequantised_from: what
    `Pretrained` calls it."""
    folder, extra = Path(path), {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if dequantised_from:
        extra[hf.DEQUANTISED_FROM] = dequantised_from
    hf.save(folder, params, cfg, dtype=dtype, extra=extra)
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)


def find(path_or_name: AnyPath) -> Pretrained:
    """The model's files, nothing loaded yet."""
    place = Path(path_or_name)
    if place.exists() or str(path_or_name).partition("@")[0] not in assets.manifest():
        return pretrained.open_model(place)
    return pretrained.open_model(assets.path(str(path_or_name)))


def generate(
    params: dict,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    adapter: dict | None = None,
    routing: Any = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """What the model writes after each prompt, all prompts decoded together; greedy at temperature
    0.

    routing (B, M): a factor per prompt on each member of the adapter; or integers (B,): the one
    each prompt uses, -1 being
    the base. stop: texts that end an answer and are left out.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    model = sample.unstacked(Model(params=params, adapter=adapter or {}), cfg.n_layers)
    before = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    rows = sample.generate(
        model,
        before,
        cfg,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.eos_id,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        routing=routing,
        stop=contains_stop(tokenizer, stop),
    )
    texts = [tokenizer.decode_continuation(ids, row) for ids, row in zip(before, rows, strict=True)]
    return [truncate_at_stop(text, stop) for text in texts]


def load_adapter(
    path_or_name: AnyPath,
    params: dict,
    *,
    allow_code: Iterable[AnyPath] = (),
    own: Own = Own(),  # noqa: B008 (frozen)
) -> tuple[dict, dict]:
    """(params, adapter) from a PEFT folder, a run directory, a file that `save_adapter` wrote, a
    fetched name, or a PEFT repository of a hub (hf:ORG/NAME).

    The params are those given, with the weights in place that were trained as a whole (PEFT's
    modules_to_save, a run that trained parameters). Raises UserError for damage, for another base,
    for an adapter that changes nothing, and for a fetched one whose rank is not what its name says.

    A kind of one's own needs its class: own=Own(adapter=CLASS), or allow_code=["FILE.py"] for the
    file that the run or the adapter file names, which is never run without that.
    """
    params = as_params("load_adapter", params)
    model = adapter_formats.load(path_or_name, params, own_code.allowing(allow_code, own))
    return model.params, model.adapter


def save_adapter(
    path: AnyPath,
    adapter: dict,
    params: dict,
    *,
    base: dict | None = None,
    base_name: str = "",
    dtype: str = "float32",
    replaced: dict | None = None,
) -> None:
    """Write an adapter of these parameters: any kind to a .safetensors file, or what PEFT has to a
    PEFT folder.

    params: what the adapter is used with. Parameters that came along with it (from `load_adapter`),
    or that differ from `base`, the parameters before any training, go into the folder as PEFT's
    modules_to_save. base_name: what PEFT's config calls the base. replaced (PEFT only): more of
    them, by path. UserError where they would be lost.
    """
    adapter, params = as_adapter_and_params("save_adapter", adapter, params)
    require_bound("save_adapter", adapter, params)
    place = Path(path)
    start, fingerprint, own = _own_parameters(place, adapter, params, base, replaced or {})
    if place.suffix == ".safetensors":
        if own:
            raise UserError(
                f"{place}: an adapter file holds no parameters such as {next(iter(own))}; use a"
                " folder"
            )
        adapter_file.save(place, adapter, fingerprint=fingerprint)
    else:
        peft.save(
            place,
            adapter,
            start,
            base_name=base_name,
            fingerprint=fingerprint,
            dtype=dtype,
            replaced=own,
        )


def _own_parameters(
    place: Path, adapter: dict, params: dict, base: dict | None, more: dict
) -> tuple[dict, str, dict]:
    """(base, its fingerprint, {path: parameter} that goes with the adapter)."""
    if base is not None:
        base = as_params("save_adapter: base", base)
        return base, tree.fingerprint(base), _differences(params, base) | more
    fingerprint, known = tree.fingerprint(params), adapter.get(replaced_parameters.KEY)
    if known is None:
        return params, fingerprint, more
    missing = [path for path in known.paths if path not in more]
    if fingerprint == known.base:
        if missing:
            raise UserError(
                f"{place}: the adapter was loaded with its own {', '.join(missing)}, which would be"
                " lost: these are the"
                " base's parameters; give those that load_adapter returned"
            )
        return params, fingerprint, more
    if known.others != tree.fingerprint(adapter_formats.without(params, known.paths)):
        raise UserError(
            f"{place}: parameters besides the adapter's own {', '.join(known.paths)} differ from"
            " its base's; give"
            " base=, the base's parameters"
        )
    leaves = dict(tree.items(params))
    return params, known.base, {path: leaves[path] for path in known.paths} | more


def _differences(params: dict, base: dict) -> dict:
    """{path: parameter} of those that differ from the base's in value; a head that is the tied
    embedding does not."""
    before = dict(tree.items(base))
    lost = sorted(set(before) - set(tree.paths(params)))
    if lost:
        raise UserError(
            f"save_adapter: base has {lost[0]} and params do not; are they of one model?"
        )
    if "head" not in base:
        before["head"] = params["embed"]
    changed = tree.changed(params, base).items()
    return {
        path: x for path, x in changed if path not in before or not jnp.array_equal(x, before[path])
    }
