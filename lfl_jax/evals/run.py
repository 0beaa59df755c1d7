"""Evaluate a model on tasks: what to measure is in the tasks, this does it, resumably, and sums it up."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import records, sandbox
from lfl_jax.evals.base import Coding, Generation, Inputs, Model, Record, Scoring, Task
from lfl_jax.evals.plan import Plan, Scored, plan, score_items
from lfl_jax.evals.stats import Estimate
from lfl_jax.evals.tasks import TASKS, find
from lfl_jax.text.stops import cut
from lfl_jax.text.tokenizers import Tokenizer

MOST_SAMPLES = 1 << 20  # of one item: its number times this, plus the sample's, names the random draws
# Tells tokenizers of one size apart: spaces, digits, capitals, accents, emoji, a newline.
PROBE = "Question: Zoë bought  1,234 pears.\n\tHow many—exactly? 🍐 #### 1234"


@dataclass(frozen=True)
class Sampling:
    """How programs are drawn: so many of each problem; and whether they may run where isolation is weak."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    allow_weak_sandbox: bool = False


@dataclass(frozen=True)
class Settings:
    """Shapes and limits. Tokens and rows are per batch; every batch of a kind has the same shape.

    length: tokens of a scoring row, which longer contexts are cut to. window: the model's context, prompt and
    generated tokens together. pick: with a limit, take the "first" items, as the harness does, or evenly "spread"
    ones, which represent a sorted data set (HellaSwag's first third is video captions, the rest how-to articles).
    """

    rows: int
    length: int
    generate_rows: int
    max_new_tokens: int
    window: int
    pick: str = "first"
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Result:
    """A task's summary; `records` is its file of per-example records."""

    items: int
    metrics: dict[str, Estimate]
    chance: float | None
    derived: dict[str, float]
    settings: dict[str, Any]
    plan: dict[str, Any]
    records: str


Batch = Callable[[], list[Record]]


@dataclass(frozen=True)
class _Work:
    """Batches to run, how many, and what planning them found out.

    A batch is computed by all processes together; its records (answers graded, programs run) are made by calling it.
    """

    batches: Callable[[np.ndarray], Iterator[Batch]]
    total: int
    figures: dict[str, Any]


def evaluate(
    tasks: Mapping[str, int],
    model: Model,
    tokenizer: Tokenizer,
    inputs: Inputs,
    settings: Settings,
    out_dir: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
    agree: Callable[[Any], Any] = lambda value: value,
    writer: bool = True,
) -> dict[str, Result]:
    """Evaluate {task: number of items, 0 = all} and return a result each, with records in `out_dir`/<task>.jsonl.

    An interrupted evaluation continues where it stopped and a finished one is read back, as long as its settings
    (task, items, model tag, tokenizer, shapes) are the same. progress(task, batches done, batches) is called before
    the first batch and after every one. With several processes one is the writer and `agree` returns its value to
    all. Raises UserError for an unknown task, one that cannot run here, or one without items, and on a process whose
    items are not the writer's.
    """
    check_tasks(tasks)
    results = {}
    for name, limit in tasks.items():
        task, path = TASKS[name], out_dir / f"{name}.jsonl"
        everything = task.items(inputs)
        chosen = pick(len(everything), limit, "first" if task.in_turns else settings.pick)
        items = [everything[i] for i in chosen]
        described = describe(task, items, model, tokenizer, inputs, settings)
        found = records.resume(path, described) if writer else None
        kept = {record["id"] for record in found or ()}
        wanted, done = agree((described, np.array([item.id in kept for item in items])))
        _require_same(name, described, wanted)
        if not done.all():
            work = _work(task, items, chosen, model, tokenizer, settings)
            if writer and isinstance(task, Coding):
                print(f"{name}: {sandbox.policy(settings.sampling.allow_weak_sandbox)}")  # noqa: T201 (before it runs)
            if found is None and writer:
                records.start(path, described, work.figures)
            progress(name, 0, work.total)
            for count, made in enumerate(work.batches(done), 1):
                if writer:
                    records.append(path, made())
                progress(name, count, work.total)
        results[name] = agree(read(path, task) if writer else None)
    return results


def _require_same(name: str, described: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [key for key in wanted if described.get(key) != wanted[key]]
    if different:
        raise UserError(
            f"evaluation {name}: {', '.join(different)} of this process is not what process 0 has; every host needs the"
            " same data, weights and package"
        )


def check_tasks(names: Iterable[str]) -> None:
    """Raise UserError for an unknown task, and for one that lacks something on this machine."""
    for name in names:
        find(name).check()


def read(path: Path, task: Task) -> Result:
    """The result of a finished evaluation, from its records."""
    header, made = records.read(path)
    summary = task.summarise(made)
    own = [record["ended"] for record in made if "ended" in record]
    derived = summary.derived | ({"ended": sum(own) / len(own)} if own else {})
    return Result(
        items=len(made),
        metrics=summary.metrics,
        chance=summary.chance,
        derived=derived,
        settings=header["settings"],
        plan=header["plan"],
        records=str(path),
    )


def pick(count: int, limit: int, how: str) -> list[int]:
    """Positions of `limit` of `count` items (0 = all): the "first", or evenly "spread"."""
    if limit == 0 or limit >= count:
        return list(range(count))
    if how == "first":
        return list(range(limit))
    if how == "spread":
        return [(2 * i + 1) * count // (2 * limit) for i in range(limit)]
    raise UserError(f"items are picked 'first' or 'spread', not {how!r}")


def describe(
    task: Task, items: Sequence, model: Model, tokenizer: Tokenizer, inputs: Inputs, settings: Settings
) -> dict[str, Any]:
    """All that a record depends on: equal descriptions make equal records. Items are described by their hash."""
    if not items:
        raise UserError(f"evaluation {task.name} has no items: name data for it, or leave it out of config.eval.tasks")
    contents = [asdict(item) for item in items]
    if len({item["id"] for item in contents}) != len(items):
        raise UserError(f"evaluation {task.name}: two items have the same id")
    special = (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos)
    return {
        "task": task.name,
        "version": task.version,
        "model": model.tag,
        "tokenizer": records.digest([*special, tokenizer.encode(PROBE)]),
        "items": len(items),
        "content": records.digest(contents),
        **_shapes(task, settings),
        **task.details(inputs),
    }


def _shapes(task: Task, s: Settings) -> dict[str, Any]:
    """The settings that matter to this kind of task."""
    if isinstance(task, Scoring):
        return {"rows": s.rows, "length": s.length}
    shapes = {"generate_rows": s.generate_rows, "max_new_tokens": s.max_new_tokens, "window": s.window}
    drawn = asdict(s.sampling) if isinstance(task, Coding) else {}
    return shapes | {"stop": list(task.stop)} | drawn


def _work(task: Task, items: Sequence, numbers: list[int], model: Model, tokenizer: Tokenizer, s: Settings) -> _Work:
    if isinstance(task, Scoring):
        planned = plan([task.requests(item, tokenizer, s.length) for item in items], s.rows, s.length)
        total = planned.figures["batches"]
        return _Work(lambda done: _score(task, items, planned, model, done), int(total), planned.figures)
    prompts = [prompt_ids(item.prompt, tokenizer) for item in items]
    room = s.window - s.max_new_tokens
    if room < 1:
        raise UserError(f"config.eval.max_new_tokens={s.max_new_tokens} leaves no room in a context of {s.window}")
    stop, figures = (*task.stop, tokenizer.eos), _figures(prompts, room)
    prompts = [prompt[-room:] for prompt in prompts]
    if isinstance(task, Coding):
        run = functools.partial(_program, task, items, prompts, numbers, stop, model, s)
        return _Work(run, len(items), {"batches": len(items)} | figures)
    batches = -(-len(items) // s.generate_rows)
    run = functools.partial(_generate, task, items, prompts, numbers, stop, model, s)
    return _Work(run, batches, {"batches": batches} | figures)


def _figures(prompts: list[list[int]], room: int) -> dict[str, int]:
    return {"prompt_tokens": sum(map(len, prompts)), "truncated": sum(len(prompt) > room for prompt in prompts)}


def _score(task: Scoring, items: Sequence, planned: Plan, model: Model, done: np.ndarray) -> Iterator[Batch]:
    def graded(finished: list[tuple[int, list[Scored]]]) -> list[Record]:
        return [task.record(items[i], scored) for i, scored in finished]

    for finished in score_items(planned, model.score, done):
        yield functools.partial(graded, finished)


def _generate(
    task: Generation, items: Sequence, prompts, numbers, stop, model: Model, s: Settings, done: np.ndarray
) -> Iterator[Batch]:
    """Longest prompts first; as with scoring, a batch is left out or computed whole."""

    def graded(new: list[tuple[Any, str]]) -> list[Record]:
        return [task.record(item, cut(text, stop)) | {"ended": ended(text, stop)} for item, text in new]

    order = sorted(range(len(items)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), s.generate_rows):
        batch = order[start : start + s.generate_rows]
        if all(done[i] for i in batch):
            yield list
            continue
        texts = model.generate(
            [prompts[i] for i in batch],
            max_new_tokens=s.max_new_tokens,
            stop=stop,
            example_ids=[numbers[i] for i in batch],
        )
        new = [(items[i], text) for i, text in zip(batch, texts, strict=True) if not done[i]]
        yield functools.partial(graded, new)


def _program(
    task: Coding, items: Sequence, prompts, numbers, stop, model: Model, s: Settings, done: np.ndarray
) -> Iterator[Batch]:
    """Item after item: its samples are drawn, then run. A draw depends on the item's and the sample's number alone."""

    def judged(item: Any, whole: list[str]) -> list[Record]:
        texts = [cut(text, stop[-1:]) for text in whole]
        programs = [task.program(item, task.extract(item, text)) for text in texts]
        verdicts = dict(sandbox.check_many(programs, allow_weak=s.sampling.allow_weak_sandbox))
        record = task.record(item, texts, [verdicts[n] for n in range(len(programs))])
        return [record | {"ended": sum(ended(text, stop) for text in whole) / len(whole)}]

    draw = {"temperature": s.sampling.temperature, "top_p": s.sampling.top_p, "max_new_tokens": s.max_new_tokens}
    for i, item in enumerate(items):
        if done[i]:
            yield list
            continue
        yield functools.partial(judged, item, _samples(prompts[i], numbers[i], stop, model, s, draw))


def _samples(prompt: list[int], number: int, stop, model: Model, s: Settings, draw: dict[str, Any]) -> list[str]:
    """The texts of one item, `generate_rows` at a time."""
    ids = [number * MOST_SAMPLES + sample for sample in range(s.sampling.samples)]
    rows = [ids[start : start + s.generate_rows] for start in range(0, len(ids), s.generate_rows)]
    return [text for row in rows for text in model.generate([prompt] * len(row), stop=stop, example_ids=row, **draw)]


def ended(text: str, stop: Sequence[str]) -> float:
    """1 if the model ended the text itself: the last of the stop texts, EOS, comes before any other."""
    return float(text[len(cut(text, stop)) :].startswith(stop[-1]))
