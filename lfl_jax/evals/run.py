"""Evaluate a model on a task: what to measure is in the task, this does it, resumably, and reads
the result."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lfl_jax import notices
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import records, sandbox
from lfl_jax.evals.batching import Scored, plan, score_items
from lfl_jax.evals.metrics import Measured
from lfl_jax.evals.stats import Estimate
from lfl_jax.evals.task import Execute, Generate, Inputs, Likelihood, Model, Record, Task
from lfl_jax.text.stops import truncate_at_stop
from lfl_jax.text.tokenizers import Tokenizer

# of one item: its number times this, plus the sample's, names the random draws
MOST_SAMPLES = 1 << 20
# Tells tokenizers of one size apart: spaces, digits, capitals, accents, emoji, a newline.
PROBE = "Question: Zoë bought  1,234 pears.\n\tHow many—exactly? 🍐 #### 1234"


@dataclass(frozen=True)
class Sampling:
    """How programs are drawn: so many of each problem; and whether they may run where isolation is
    weak."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    allow_weak_sandbox: bool = False


@dataclass(frozen=True)
class Settings:
    """Shapes and limits. Tokens and rows are per batch; every batch of a kind has the same shape.

    length: tokens of a scoring row, which longer contexts are cut to. window: the model's context,
    prompt and
    generated tokens together. pick: with a limit, take the "first" items, as the harness does, or
    evenly "spread" ones, which represent a sorted data set (HellaSwag's first third is video
    captions, the rest how-to articles).
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
    """A finished evaluation of one task: every metric it declares; `records` is its file of
    per-example records.

    measured: {metric: its values over the items and their mean}, in the order of declaration, the
    main one first.
    """

    label: str
    items: int
    measured: dict[str, Measured]
    settings: dict[str, Any]
    plan: dict[str, Any]
    records: str

    @property
    def metrics(self) -> dict[str, Estimate]:
        """{metric: its mean and error}."""
        return {name: each.estimate for name, each in self.measured.items()}

    @property
    def main(self) -> Measured:
        """The task's first metric."""
        return next(iter(self.measured.values()))


Batch = Callable[[], list[Record]]


@dataclass(frozen=True)
class _Work:
    """Batches to run, how many, and what planning them found out.

    A batch is computed by all processes together; its records (answers graded, programs run) are
    made by calling it.
    """

    batches: Callable[[np.ndarray], Iterator[Batch]]
    total: int
    figures: dict[str, Any]
    truncated: int  # items whose prompts were cut to the limit, which is said in words
    limit: str


def evaluate(
    task: Task,
    limit: int,
    model: Model,
    tokenizer: Tokenizer,
    inputs: Inputs,
    settings: Settings,
    out_dir: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
    agree: Callable[[Any], Any] = lambda value: value,
    writer: bool = True,
) -> Result:
    """Evaluate `limit` items of a task (0 = all), with records in `out_dir`/<task>.jsonl.

    An interrupted evaluation continues where it stopped and a finished one is read back, as long as
    its settings (task, items, model tag, tokenizer, shapes) are the same. progress(task, batches
    done, batches) is called before the first batch and after every one. With several processes one
    is the writer and `agree` returns its value to all. Raises UserError for a task that cannot run
    here, or without items, and on a process whose items are not the writer's.
    """
    task.check()
    path = out_dir / f"{task.name}.jsonl"
    every_item = task.items(inputs)
    indices = pick(len(every_item), limit, "first" if task.interleaved else settings.pick)
    items = [every_item[i] for i in indices]

    described = describe(task, items, model, tokenizer, inputs, settings)
    resumed = records.resume(path, described) if writer else None
    recorded = {record["id"] for record in resumed or ()}
    writers, done = agree((described, np.array([item.id in recorded for item in items])))
    _require_same(task.name, described, writers)

    if not done.all():
        work = WORK[type(task.method)](
            _Evaluation(task, items, indices, model, tokenizer, settings)
        )
        if writer and isinstance(task.method, Execute):
            print(f"{task.name}: {sandbox.policy(settings.sampling.allow_weak_sandbox)}")  # noqa: T201 (before it runs)
        if resumed is None and writer:
            records.start(path, described, work.figures)
        _run_batches(
            work,
            done,
            path if writer else None,
            lambda count: progress(task.name, count, work.total),
        )
        if work.truncated:
            notices.warn(
                f"{task.name}: {work.truncated} of {len(items)} prompts lost their beginning:"
                f" {work.limit}"
            )
    return agree(read(path, task) if writer else None)


def _run_batches(
    work: _Work, done: np.ndarray, path: Path | None, progress: Callable[[int], None]
) -> None:
    """Compute every batch, and write its records where there is a path; progress: batches done, 0
    at first."""
    progress(0)
    for count, batch in enumerate(work.batches(done), 1):
        if path is not None:
            records.append(path, batch())
        progress(count)


def _require_same(name: str, described: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = [key for key in wanted if described.get(key) != wanted[key]]
    if different:
        raise UserError(
            f"evaluation {name}: {', '.join(different)} of this process is not what process 0 has;"
            " every host needs the"
            " same data, weights and package"
        )


def read(path: Path, task: Task) -> Result:
    """The result of a finished evaluation, from its records; UserError where they define no
    metric."""
    header, found = records.read(path)
    measured = task.measure(found)
    if not measured:
        raise UserError(
            f"evaluation {task.name}: no items to average: there are none, or none with a scored"
            " token"
        )
    return Result(task.label, len(found), measured, header["settings"], header["plan"], str(path))


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
    task: Task,
    items: Sequence,
    model: Model,
    tokenizer: Tokenizer,
    inputs: Inputs,
    settings: Settings,
) -> dict[str, Any]:
    """All that a record depends on: equal descriptions make equal records. Items are described by
    their hash."""
    if not items:
        raise UserError(
            f"evaluation {task.name} has no items: name data for it, or leave it out of"
            " config.eval.tasks"
        )
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
    """The settings that matter to the task's method."""
    if isinstance(task.method, Likelihood):
        return {"rows": s.rows, "length": s.length}
    shapes = {
        "generate_rows": s.generate_rows,
        "max_new_tokens": s.max_new_tokens,
        "window": s.window,
    }
    drawn = asdict(s.sampling) if isinstance(task.method, Execute) else {}
    return shapes | {"stop": list(task.method.stop)} | drawn


@dataclass(frozen=True)
class _Evaluation:
    """A task on a model: the items that are evaluated, and their indices among all of the
    task's."""

    task: Task
    items: Sequence[Any]
    indices: Sequence[int]
    model: Model
    tokenizer: Tokenizer
    settings: Settings

    def likelihood(self) -> _Work:
        """Score every request of every item, many in a row."""
        method, s = self.task.method, self.settings
        planned = plan(
            [method.requests(item, self.tokenizer, s.length) for item in self.items],
            s.rows,
            s.length,
        )

        def graded(finished: list[tuple[int, list[Scored]]]) -> list[Record]:
            return [method.record(self.items[i], scored) for i, scored in finished]

        def batches(done: np.ndarray) -> Iterator[Batch]:
            for finished in score_items(planned, self.model.score, done):
                yield partial(graded, finished)

        truncated = sum(
            any(request.truncated for request in of_item) for of_item in planned.requests
        )
        limit = f"longer than the rows of {s.length} tokens they are scored in (eval.seq_len)"
        return _Work(batches, int(planned.figures["batches"]), planned.figures, truncated, limit)

    def generate(self) -> _Work:
        """One greedy answer to every item, the longest prompts first."""
        prompts, figures = self._prompts()
        rows = self.settings.generate_rows
        order = sorted(range(len(self.items)), key=lambda i: -len(prompts[i]))
        batches = [order[start : start + rows] for start in range(0, len(order), rows)]

        def run(done: np.ndarray) -> Iterator[Batch]:
            for batch in batches:
                # As with scoring, a batch is left out or computed whole: a restart computes what a
                # whole run would.
                yield list if all(done[i] for i in batch) else self._answers(batch, prompts, done)

        return _Work(
            run, len(batches), {"batches": len(batches)} | figures, figures["truncated"], self._room
        )

    def execute(self) -> _Work:
        """Item after item: its programs are drawn, then run."""
        prompts, figures = self._prompts()

        def run(done: np.ndarray) -> Iterator[Batch]:
            for i in range(len(self.items)):
                yield (
                    list
                    if done[i]
                    else partial(self._graded_programs, i, self._samples(i, prompts[i]))
                )

        return _Work(
            run,
            len(self.items),
            {"batches": len(self.items)} | figures,
            figures["truncated"],
            self._room,
        )

    @property
    def _stop(self) -> tuple[str, ...]:
        """What ends a text: EOS last, which `ended` relies on."""
        return (*self.task.method.stop, self.tokenizer.eos)

    @property
    def _room(self) -> str:
        """What limits a prompt, in words."""
        s = self.settings
        return f"longer than the model's {s.window} positions less {s.max_new_tokens} to generate (eval.max_new_tokens)"

    def _prompts(self) -> tuple[list[list[int]], dict[str, int]]:
        """The items' prompts as ids, cut at their start to leave room for the answer, and figures
        of them."""
        s = self.settings
        room = s.window - s.max_new_tokens
        if room < 1:
            raise UserError(
                f"config.eval.max_new_tokens={s.max_new_tokens} leaves no room in a context of"
                f" {s.window}"
            )
        prompts = [prompt_ids(item.prompt, self.tokenizer) for item in self.items]
        truncated = sum(len(prompt) > room for prompt in prompts)
        figures = {"prompt_tokens": sum(map(len, prompts)), "truncated": truncated}
        return [prompt[-room:] for prompt in prompts], figures

    def _answers(self, batch: Sequence[int], prompts: list[list[int]], done: np.ndarray) -> Batch:
        texts = self.model.generate(
            [prompts[i] for i in batch],
            max_new_tokens=self.settings.max_new_tokens,
            stop=self._stop,
            example_ids=[self.indices[i] for i in batch],
        )
        new = [(self.items[i], text) for i, text in zip(batch, texts, strict=True) if not done[i]]
        return partial(self._graded_answers, new)

    def _graded_answers(self, answers: list[tuple[Any, str]]) -> list[Record]:
        record, stop = self.task.method.record, self._stop
        return [
            record(item, truncate_at_stop(text, stop)) | {"ended": ended(text, stop)}
            for item, text in answers
        ]

    def _graded_programs(self, i: int, full_texts: list[str]) -> list[Record]:
        item, method, stop = self.items[i], self.task.method, self._stop
        texts = [truncate_at_stop(text, stop[-1:]) for text in full_texts]
        programs = [method.program(item, method.extract(item, text)) for text in texts]
        verdicts = dict(
            sandbox.check_many(programs, allow_weak=self.settings.sampling.allow_weak_sandbox)
        )
        record = method.record(item, texts, [verdicts[n] for n in range(len(programs))])
        return [record | {"ended": sum(ended(text, stop) for text in full_texts) / len(full_texts)}]

    def _samples(self, i: int, prompt: list[int]) -> list[str]:
        """The texts of one item, `generate_rows` at a time; a draw depends on the indices of item
        and sample alone."""
        s = self.settings
        first = self.indices[i] * MOST_SAMPLES
        ids = list(range(first, first + s.sampling.samples))
        texts = []
        for start in range(0, len(ids), s.generate_rows):
            batch = ids[start : start + s.generate_rows]
            texts += self.model.generate(
                [prompt] * len(batch),
                stop=self._stop,
                example_ids=batch,
                temperature=s.sampling.temperature,
                top_p=s.sampling.top_p,
                max_new_tokens=s.max_new_tokens,
            )
        return texts


WORK: dict[type, Callable[[_Evaluation], _Work]] = {
    Likelihood: _Evaluation.likelihood,
    Generate: _Evaluation.generate,
    Execute: _Evaluation.execute,
}


def ended(text: str, stop: Sequence[str]) -> float:
    """1 if the model ended the text itself: the last of the stop texts, EOS, comes before any
    other."""
    return float(text[len(truncate_at_stop(text, stop)) :].startswith(stop[-1]))
