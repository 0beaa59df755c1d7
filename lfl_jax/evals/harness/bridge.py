"""Any task of lm-evaluation-harness on our models (extra `eval`; neither torch nor transformers).

The harness makes the prompts and grades the answers. Every answer is kept in a file, so that a
killed evaluation resumes. For one process.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from lfl_jax.assets import readers
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.harness import documents, index
from lfl_jax.evals.harness.answers import Answers
from lfl_jax.evals.harness.index import TaskManager
from lfl_jax.evals.harness.model import HarnessModel, fingerprint
from lfl_jax.evals.records import Record
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Scorer

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256  # the harness's, where a task names no number
RESAMPLES = 1000  # for metrics whose standard error is bootstrapped; that of a mean has a formula
# Of its results: samples have files of their own, the others describe this machine.
UNUSED = ("samples", "pretty_env_info", "git_hash", "upper_git_hash")


def harness(scorer: Scorer, settings: Settings, answers: Answers | None = None) -> HarnessModel:
    """The scorer as an `lm_eval.api.model.TemplateLM`, for `lm_eval.simple_evaluate(model=...)`.

    settings.length truncates what is scored and settings.window what is generated, as max_length
    does both in the harness's own models. settings.max_new_tokens is for tasks that name no number
    (the harness: 256).
    """
    _check_installed()
    from lm_eval.api.model import TemplateLM

    # A class made here: the harness is optional, and importing it takes seconds.
    class Harness(HarnessModel, TemplateLM):
        """Our methods, with the harness's own encoding of pairs."""

    return Harness(scorer, settings, answers or Answers())


def run(
    scorer: Scorer,
    tasks: Sequence[str],
    settings: Settings,
    *,
    out: Path,
    limit: int | None = None,
    num_fewshot: int | None = None,
    data: str = "cache",
    include: str = "",
    gen_kwargs: dict[str, Any] | None = None,
    chat: bool = False,
    docs: documents.Docs = readers.docs,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Evaluate tasks, groups or tags; {task: {"acc,none": mean, "acc_stderr,none": error, ...}}.

    data: "cache" reads fetched documents and local files, never the network; "hub" lets the harness
    download. include: a folder with more task files. limit: the first n documents of each task.
    num_fewshot, gen_kwargs: in place of those of the tasks. chat: prompts in the tokenizer's chat
    template. report: gets the harness's table. `out` gets results.json, samples_<task>.jsonl, and
    requests.jsonl, by which the same call resumes. Raises UserError for unknown tasks and for
    documents that are not available.
    """
    _check(tasks, data, include)
    # Answers depend on these and on their request alone: a file of other settings is put aside.
    settings_record = _settings_record(scorer, settings)
    model = harness(scorer, settings, Answers(out / "requests.jsonl", settings_record))
    cached_docs = docs if data == "cache" else None
    with index.environment(offline=data == "cache") as folder:
        manager, sources = index.build(tasks, folder, include, cached_docs, num_fewshot)
        options = {"limit": limit, "num_fewshot": num_fewshot, "gen_kwargs": gen_kwargs}
        results = _evaluate(model, tasks, manager, apply_chat_template=chat, **options)
    # A truncated prompt changes an answer silently: say so once, for all tasks.
    if model.truncated:
        log.warning(
            "%d requests lost the beginning of their context: raise config.eval.seq_len",
            model.truncated,
        )

    used = {task: splits for task, splits in sources.items() if task in results["configs"]}
    about = {"data": data, "sources": used, "truncated": model.truncated, **settings_record}
    _write(out, results, about)
    report(_table(results))
    return _means(results["results"])


def _evaluate(
    model: HarnessModel, tasks: Sequence[str], manager: TaskManager, **options: Any
) -> dict[str, Any]:
    import lm_eval.evaluator

    return lm_eval.evaluator.simple_evaluate(
        model=model,
        tasks=list(tasks),
        task_manager=manager,
        bootstrap_iters=RESAMPLES,
        torch_random_seed=None,  # a seed would need torch
        **options,
    )


def _check(tasks: Sequence[str], data: str, include: str) -> None:
    """UserError for what cannot work, before anything is loaded."""
    _check_installed()
    if jax.process_count() > 1:
        raise UserError("lm-eval's tasks are evaluated by one process: start it on one host")
    if not tasks:
        raise UserError("name at least one task of lm-eval")
    if data not in ("cache", "hub"):
        raise UserError(f"data={data!r}: documents come from 'cache' or from 'hub'")
    if include and not Path(include).is_dir():
        raise UserError(f"include={include!r} is no folder")


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is missing: install the eval extra: pip install 'lfl_jax[eval]'"
        )


def _settings_record(scorer: Scorer, settings: Settings) -> Record:
    """All that an answer depends on, apart from its request."""
    shapes = {name: value for name, value in asdict(settings).items() if name != "pick"}
    return {"model": scorer.tag, "tokenizer": fingerprint(scorer.tokenizer), **shapes}


def _write(out: Path, results: dict[str, Any], about: Record) -> None:
    """results.json, with `about` as its "lfl_jax", and a file of samples for each task."""
    from lm_eval.utils import handle_non_serializable, sanitize_task_name

    for task, samples in results["samples"].items():
        # As the harness writes them itself, so that its tools read them.
        lines = [
            json.dumps(sample, default=handle_non_serializable, ensure_ascii=False) + "\n"
            for sample in samples
        ]
        files.write_text(out / f"samples_{sanitize_task_name(task)}.jsonl", "".join(lines))

    used = {name: value for name, value in results.items() if name not in UNUSED}
    text = json.dumps(used | {"lfl_jax": about}, default=handle_non_serializable)
    tree = json.loads(text, parse_constant=lambda name: None)  # NaN is not JSON
    for task, splits in about["sources"].items():
        # The temporary files that the documents were read from say nothing to a reader.
        config = tree["configs"][task]
        config["dataset_path"] = ", ".join(split["item"] for split in splits.values())
        config["dataset_kwargs"] = None
    files.write_json(out / "results.json", tree)


def _table(results: dict[str, Any]) -> str:
    from lm_eval.utils import make_table

    groups = "\n" + make_table(results, "groups") if "groups" in results else ""
    return make_table(results) + groups


def _means(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By task what is measured: "acc,none" and the like; a group may have nothing of its own."""
    by_task = {task: _numbers(metrics) for task, metrics in results.items()}
    return {task: numbers for task, numbers in by_task.items() if numbers}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    # Aliases and sample counts stand beside the metrics, without a comma in their names.
    return {
        name: float(value)
        for name, value in metrics.items()
        if "," in name and isinstance(value, int | float)
    }
