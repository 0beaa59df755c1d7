"""A model, an adapter and text in a few lines: what `import lfl_jax` offers, all plain functions.

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
from typing import Any, TypeAlias

from jax.typing import ArrayLike
from rich.console import Console

from lfl_jax import assets, lab_base, notices, sample, train
from lfl_jax.adapters.adapter_tree import as_params
from lfl_jax.config import Config, command_line, locations, own_code
from lfl_jax.config.own_code import Own
from lfl_jax.core import files, hosts
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.core.sharding import Rules, make_rules
from lfl_jax.core.types import AdapterTree, Params
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.evals.run import Result
from lfl_jax.io import hf, pretrained
from lfl_jax.io.pretrained import Pretrained
from lfl_jax.model import Model
from lfl_jax.models.config import ModelConfig
from lfl_jax.report import describe, finished_run, plots, results_json, table
from lfl_jax.report.rows import Report
from lfl_jax.run_setup import adapter_formats
from lfl_jax.text.stops import contains_stop, truncate_at_stop
from lfl_jax.text.tokenizers import Tokenizer

AnyPath: TypeAlias = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of a run: every task before and after training, paired, and figures of the training.

    finished: False for a run that was interrupted and saved. It then has no report and no facts,
    and `run` with the same arguments resumes it. step: that it reached, of `steps`. trained:
    optimizer steps of this call. facts: "facts" of results.json.
    """

    config: Config = dataclasses.field(repr=False)
    workdir: Path
    finished: bool
    step: int
    steps: int
    trained: int
    facts: dict[str, Any]
    before: dict[str, Result] = dataclasses.field(repr=False)
    after: dict[str, Result] = dataclasses.field(repr=False)
    report: Report | None = dataclasses.field(repr=False, default=None)

    def to_rows(self) -> list[dict[str, Any]]:
        """Flat dicts for pandas.DataFrame, one for each task, metric and variant.

        Variants are "before", "after" and "change".
        """
        return [] if self.report is None else self.report.to_rows()

    def show(self, console: Console | None = None) -> None:
        """Print the table of the run."""
        if self.report is not None:
            figures = describe.figures(self.facts)
            flags = describe.flags(self.facts["provenance"])
            table.show(self.report, figures, flags, self.workdir, console or Console())


def get_config(name: str, *, allow_code: Iterable[AnyPath] = (), **fields: Any) -> Config:
    """The config "math_ift:full,r=4", a name with words, or FILE.py; fields override its own.

    get_config("math_ift:smoke", **{"optim.lr": 1e-3, "eval.tasks": ("gsm8k:8",)}). allow_code:
    files that the record of a run names ("from_run:DIR"), and that may run. Raises one UserError
    for all mistakes.
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
    """Evaluate the base, train, evaluate again, as `python -m lfl_jax.main` does.

    Everything is written to the run directory. A run that was interrupted is resumed, a finished
    one is read back. config: of `get_config`, or its name. own: objects in place of those that the
    config names; its tasks are evaluated, too. allow_code: files that the config names. quiet: no
    progress. Raises UserError for mistakes, NonFiniteLoss when training diverged.
    """
    keep_compiled_programs(assets.writable("compiled"))
    config = get_config(config) if isinstance(config, str) else config
    config = config.with_own(own).allowing(own_code.allowing(allow_code).allowed)
    folder = Path(locations.absolute(os.fspath(workdir), Path.cwd()))
    lab_base.prepare(config, quiet)

    with notices.collected() as warnings:
        trained = train.run(train.Run(config, folder, tuple(own.tasks), quiet))
    outcome = Outcome(
        config=config,
        workdir=folder,
        finished=trained.finished,
        step=trained.step,
        steps=trained.steps,
        trained=trained.trained,
        facts=trained.facts,
        before=trained.before,
        after=trained.after,
    )
    if not trained.finished:
        return outcome

    report, facts = finished_run.paired(trained, warnings, folder)
    outcome = dataclasses.replace(outcome, facts=facts, report=report)
    if hosts.is_first():
        _write(outcome)
    return outcome


def _write(outcome: Outcome) -> None:
    """Write results.json, summary.txt and the pictures, and the scores to W&B where it is used."""
    folder = outcome.workdir
    results_json.save(outcome.report, outcome.facts, folder)
    with (
        files.replacing(folder / "summary.txt") as partial,
        partial.open("w", encoding="utf-8") as file,
    ):
        outcome.show(Console(file=file, width=120))
    plots.draw(outcome.report, {"base": outcome.before, "tuned": outcome.after}, folder)
    finished_run.send(outcome.config, outcome.before, outcome.after, folder)


def load(
    path_or_name: AnyPath,
    *,
    dtype: str = "float32",
    rules: Rules | None = None,
    tokenizer: AnyPath | None = None,
) -> tuple[Params, ModelConfig, Tokenizer]:
    """(params, cfg, tokenizer) of a pretrained model.

    It is a Hugging Face folder, a GGUF file, a fetched name, or a hub's repository
    (hf:ORG/NAME[@REVISION], fetched first where it is not on this machine). dtype: float32,
    bfloat16, or int8 or nf4 for its linear weights (quantised, for adapters to train over). rules:
    the mesh to put it on; by default all devices, sharded. tokenizer: a folder, file or fetched
    name in place of the tokenizer that comes with the weights. Raises UserError for files that are
    missing or damaged.
    """
    files = find(path_or_name)
    # The tokenizer first: a folder without one is refused before its weights are read.
    if tokenizer is None:
        opened = files.tokenizer()
    else:
        opened = pretrained.open_tokenizer(os.fspath(tokenizer), files.cfg)
    return files.load(files.cfg, rules or make_rules(), dtype), files.cfg, opened


def save(
    path: AnyPath,
    params: Params,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    *,
    dtype: str = "bfloat16",
    dequantised_from: str | None = None,
) -> None:
    """Write a Hugging Face folder with weights, config and tokenizer.

    dequantised_from: the format that rounded the weights, `Origin.quantised`.
    """
    folder, extra = Path(path), {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    if dequantised_from:
        extra[hf.DEQUANTISED_FROM] = dequantised_from
    hf.save(folder, params, cfg, dtype=dtype, extra=extra)
    for name, content in tokenizer.files().items():
        (folder / name).write_bytes(content)


def find(path_or_name: AnyPath) -> Pretrained:
    """The files of a model; nothing is loaded yet."""
    path = Path(path_or_name)
    if path.exists() or str(path_or_name).partition("@")[0] not in assets.manifest():
        return pretrained.open_model(path)
    return pretrained.open_model(assets.path(str(path_or_name)))


def generate(
    params: Params,
    cfg: ModelConfig,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    adapter: AdapterTree | None = None,
    routing: ArrayLike | Sequence | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continuations of the prompts, all decoded together; greedy at temperature 0.

    routing: weights (B, M) of the adapters of a mix for each prompt, or integers (B,) that name
    the one it uses, -1 being the base. stop: texts that end an answer and are left out.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    model = sample.unstacked(Model(params=params, adapter=adapter or {}), cfg.n_layers)
    prompts_ids = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    rows = sample.generate(
        model,
        prompts_ids,
        cfg,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.eos_id,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        routing=routing,
        stop=contains_stop(tokenizer, stop),
    )
    pairs = zip(prompts_ids, rows, strict=True)
    texts = [tokenizer.decode_continuation(ids, row) for ids, row in pairs]
    return [truncate_at_stop(text, stop) for text in texts]


def load_adapter(
    path_or_name: AnyPath,
    params: Params,
    *,
    allow_code: Iterable[AnyPath] = (),
    own: Own = Own(),  # noqa: B008 (frozen)
) -> tuple[Params, AdapterTree]:
    """(params, adapter) of an adapter in any format.

    That is a PEFT folder, a run directory, a file of `save_adapter`, a fetched name, or a PEFT
    repository of a hub (hf:ORG/NAME). The params are those given, but for weights that were trained
    as a whole (PEFT's modules_to_save, a run that trained parameters). Raises UserError for damage,
    for another base, for an adapter that changes nothing, and for a fetched one whose rank is not
    what its name says.

    A kind of your own needs its class: own=Own(adapter=CLASS), or allow_code=["FILE.py"] for the
    file that the run or the adapter file names, which is never run without that.
    """
    params = as_params("load_adapter", params)
    model = adapter_formats.load(path_or_name, params, own_code.allowing(allow_code, own))
    return model.params, model.adapter


def save_adapter(
    path: AnyPath,
    adapter: AdapterTree,
    params: Params,
    *,
    base: Params | None = None,
    base_name: str = "",
    dtype: str = "float32",
    replaced: Params | None = None,
) -> None:
    """Write an adapter: any kind to a .safetensors file, or those that PEFT has to a PEFT folder.

    params: those that the adapter is used with. Parameters that `load_adapter` returned with it, or
    that differ from `base`, the parameters before any training, are written to the folder as PEFT's
    modules_to_save. base_name: of the base in PEFT's config. replaced (PEFT only): further
    parameters to write, by path. UserError where they would be lost.
    """
    adapter_formats.save(
        Path(path),
        Model(params=params, adapter=adapter),
        base=base,
        base_name=base_name,
        dtype=dtype,
        replaced=replaced or {},
    )
