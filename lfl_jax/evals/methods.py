"""The methods at work: batches for the devices, and the records that are made of their outputs.

Every process computes every batch. Making the records (grading answers, running programs) is left
to the process that writes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool

from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import sandbox
from lfl_jax.evals.batching import Plan, Score, diverge_items, plan, score_items
from lfl_jax.evals.metrics import Record
from lfl_jax.evals.requests import Request
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import (
    Diverge,
    DivergeSampled,
    Execute,
    Generate,
    Item,
    Likelihood,
    Method,
    PromptedItem,
    Scorer,
    Task,
)
from lfl_jax.text.stops import truncate_at_stop

# Sample s of item i draws its random numbers by the id i * MAX_SAMPLES + s.
MAX_SAMPLES = 1 << 20

Done = Bool[np.ndarray, " items"]
# Makes the records of a batch whose outputs are computed.
MakeRecords = Callable[[], list[Record]]


@dataclass(frozen=True)
class Workload:
    """The items of a task that a model is evaluated on.

    indices: of the items among all items of the task; random draws depend on them, not on a limit.
    """

    task: Task
    scorer: Scorer
    settings: Settings
    items: Sequence[Item]
    indices: Sequence[int]

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end a generated one; EOS is last, which `emitted_eos` relies on."""
        return (*self.task.method.stop, self.scorer.tokenizer.eos)


@dataclass(frozen=True)
class Work:
    """The batches of an evaluation, their number and other figures.

    batches(done): computes one batch after the other, without those whose items are all done.
    truncated: items whose prompts exceed `limit`, a phrase, and lost their beginning.
    """

    batches: Callable[[Done], Iterator[MakeRecords]]
    figures: dict[str, int | float]
    truncated: int
    limit: str

    @property
    def total(self) -> int:
        """Batches, those that are skipped included."""
        return int(self.figures["batches"])

    @property
    def plan(self) -> Record:
        """What the header of the records says: a start that computes nothing warns by it, too."""
        return self.figures | {"truncated": self.truncated, "prompt_limit": self.limit}


def _skipped() -> list[Record]:
    """Of a batch whose items were all done before."""
    return []


def score(load: Workload) -> Work:
    """Likelihood: score every request of every item, many to a row."""
    return _measure(load, _given_requests(load), load.scorer.score, score_items)


def diverge(load: Workload) -> Work:
    """Diverge: compare model and base at every request of every item, batched as for `score`."""
    if load.scorer.diverge is None:
        raise _is_alone(load)
    return _measure(load, _given_requests(load), load.scorer.diverge, diverge_items)


def diverge_sampled(load: Workload) -> Work:
    """DivergeSampled: first the base samples after every prompt, then as for `diverge`."""
    if load.scorer.diverge is None:
        raise _is_alone(load)
    return _measure(load, _sampled_requests(load), load.scorer.diverge, diverge_items)


def _is_alone(load: Workload) -> UserError:
    return UserError(
        f"evaluation {load.task.name} compares a model with its base, and this one is alone"
    )


def _given_requests(load: Workload) -> list[list[Request]]:
    """Those of every item, as its task makes them."""
    method, length = load.task.method, load.settings.length
    return [method.requests(item, load.scorer.tokenizer, length) for item in load.items]


def _sampled_requests(load: Workload) -> list[list[Request]]:
    """One of every item: its prompt and what the base samples after it.

    UserError where neither the context nor a scoring row has room for an answer.
    """
    settings, sample_base = load.settings, load.scorer.sample_base
    if sample_base is None:
        raise _is_alone(load)
    # A row reads all ids but the last.
    room = min(settings.window, settings.length + 1) - settings.max_new_tokens
    if room < 1:
        raise UserError(
            f"config.eval.max_new_tokens={settings.max_new_tokens} leaves no room in rows of"
            f" {settings.length} tokens (eval.seq_len) of a context of {settings.window}"
        )
    prompts = [load.task.method.prompt(item, load.scorer.tokenizer) for item in load.items]
    contexts = [prompt[-room:] for prompt in prompts]

    sampled: list[list[int]] = []
    for start in range(0, len(contexts), settings.generate_rows):
        chunk = slice(start, start + settings.generate_rows)
        sampled += sample_base(
            contexts[chunk],
            max_new_tokens=settings.max_new_tokens,
            example_ids=load.indices[chunk],
        )
    return [
        [Request(tuple(context), tuple(answer), truncated=len(prompt) > room)]
        for prompt, context, answer in zip(prompts, contexts, sampled, strict=True)
    ]


def _measure(
    load: Workload,
    requests: list[list[Request]],
    compute: Score,
    measure_items: Callable[[Plan, Score, Done], Iterator[list[tuple[int, list[Any]]]]],
) -> Work:
    """The requests of the items in batches; measure_items makes what their records are made of."""
    method, length = load.task.method, load.settings.length
    planned = plan(requests, load.settings.rows, length)

    def make_records(measured: list[tuple[int, list[Any]]]) -> list[Record]:
        return [method.record(load.items[i], values) for i, values in measured]

    def batches(done: Done) -> Iterator[MakeRecords]:
        for measured in measure_items(planned, compute, done):
            yield partial(make_records, measured)

    truncated = sum(map(_is_truncated, requests))
    limit = f"longer than the rows of {length} tokens they are scored in (eval.seq_len)"
    return Work(batches, planned.figures, truncated, limit)


def _is_truncated(requests: Sequence[Request]) -> bool:
    return any(request.truncated for request in requests)


def generate(load: Workload) -> Work:
    """Generate: one greedy answer to every item."""
    prompts, rows = _Prompts.encode(load), load.settings.generate_rows
    # The longest first, so that prompts of one batch have about the same length.
    order = sorted(range(len(load.items)), key=lambda i: -len(prompts.ids[i]))
    chunks = [order[start : start + rows] for start in range(0, len(order), rows)]

    def batches(done: Done) -> Iterator[MakeRecords]:
        for chunk in chunks:
            # A batch is skipped or computed whole: a restart computes what one start would.
            if done[chunk].all():
                yield _skipped
            else:
                yield partial(_grade, load, _answers(load, chunk, prompts, done))

    return prompts.work(batches, len(chunks))


def execute(load: Workload) -> Work:
    """Execute: item after item, draw its samples, then run their programs."""
    prompts = _Prompts.encode(load)

    def batches(done: Done) -> Iterator[MakeRecords]:
        for i, prompt in enumerate(prompts.ids):
            yield (
                _skipped if done[i] else partial(_run_programs, load, i, _samples(load, i, prompt))
            )

    return prompts.work(batches, len(load.items))


WORK: dict[type, Callable[[Workload], Work]] = {
    Likelihood: score,
    Diverge: diverge,
    DivergeSampled: diverge_sampled,
    Generate: generate,
    Execute: execute,
}


def shapes(method: Method, settings: Settings) -> Record:
    """The settings that a method's records depend on, to be recorded with them."""
    recorded: Record = {}
    for part in SHAPES[type(method)]:
        recorded |= part(method, settings)
    return recorded


def _scoring(method: Method, settings: Settings) -> Record:
    # Rows are among them: sums over other shapes may round differently.
    return {"rows": settings.rows, "length": settings.length}


def _decoding(method: Method, settings: Settings) -> Record:
    names = ("generate_rows", "max_new_tokens", "window")
    return {name: getattr(settings, name) for name in names}


def _stopping(method: Generate | Execute, settings: Settings) -> Record:
    return {"stop": list(method.stop)}


def _sampling(method: Method, settings: Settings) -> Record:
    return asdict(settings.sampling)


SHAPES: dict[type, tuple[Callable[[Any, Settings], Record], ...]] = {
    Likelihood: (_scoring,),
    Diverge: (_scoring,),
    DivergeSampled: (_scoring, _decoding),
    Generate: (_decoding, _stopping),
    Execute: (_decoding, _stopping, _sampling),
}


@dataclass(frozen=True)
class _Prompts:
    """Prompts as ids that leave room for the answer; `figures` describe them before truncation."""

    ids: list[list[int]]
    figures: dict[str, int]
    limit: str

    @classmethod
    def encode(cls, load: Workload) -> "_Prompts":
        """Of the items, in order; UserError where the context has no room for an answer."""
        window, answer = load.settings.window, load.settings.max_new_tokens
        room = window - answer
        if room < 1:
            raise UserError(
                f"config.eval.max_new_tokens={answer} leaves no room in a context of {window}"
            )
        ids = [prompt_ids(item.prompt, load.scorer.tokenizer) for item in load.items]
        truncated = sum(len(prompt) > room for prompt in ids)
        figures = {"prompt_tokens": sum(map(len, ids)), "truncated": truncated}
        limit = (
            f"longer than the model's {window} positions less {answer} to generate"
            " (eval.max_new_tokens)"
        )
        # Their beginning goes: the question is at the end.
        return cls([prompt[-room:] for prompt in ids], figures, limit)

    def work(self, batches: Callable[[Done], Iterator[MakeRecords]], count: int) -> Work:
        """The work of an evaluation with these prompts, of `count` batches."""
        figures = {"batches": count} | self.figures
        return Work(batches, figures, self.figures["truncated"], self.limit)


def _answers(
    load: Workload, batch: Sequence[int], prompts: _Prompts, done: Done
) -> list[tuple[PromptedItem, str]]:
    """The items of a batch that are not done, with their generated texts."""
    batch_prompts = [prompts.ids[i] for i in batch]
    texts = load.scorer.generate(
        batch_prompts,
        max_new_tokens=load.settings.max_new_tokens,
        stop=load.stop,
        example_ids=[load.indices[i] for i in batch],
    )
    return [(load.items[i], text) for i, text in zip(batch, texts, strict=True) if not done[i]]


def _grade(load: Workload, answers: Sequence[tuple[PromptedItem, str]]) -> list[Record]:
    """The records of answers, each cut where a stop text ends it."""
    records = []
    for item, text in answers:
        record = load.task.method.record(item, truncate_at_stop(text, load.stop))
        # The method's own metric; the task knows nothing of EOS, which is cut.
        records.append(record | {"ended": emitted_eos(text, load.stop)})
    return records


def _samples(load: Workload, i: int, prompt: list[int]) -> list[str]:
    """The generated texts of item i; a draw depends on the indices of item and sample alone."""
    settings, sampling = load.settings, load.settings.sampling
    first_id = load.indices[i] * MAX_SAMPLES
    ids = list(range(first_id, first_id + sampling.samples))
    texts: list[str] = []
    for start in range(0, len(ids), settings.generate_rows):
        batch = ids[start : start + settings.generate_rows]
        texts += load.scorer.generate(
            [prompt] * len(batch),
            stop=load.stop,
            example_ids=batch,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=settings.max_new_tokens,
        )
    return texts


def _run_programs(load: Workload, i: int, generated: list[str]) -> list[Record]:
    """The record of item i: its samples become programs, which run with its tests."""
    item, method, stop = load.items[i], load.task.method, load.stop
    # Only EOS is cut here: `extract` looks at the stop texts itself.
    texts = [truncate_at_stop(text, stop[-1:]) for text in generated]
    programs = [method.program(item, method.extract(item, text)) for text in texts]

    # (index, verdict) pairs, in the order in which the programs finish.
    allow_weak = load.settings.sampling.allow_weak_sandbox
    verdicts = dict(sandbox.check_many(programs, allow_weak=allow_weak))
    record = method.record(item, texts, [verdicts[n] for n in range(len(programs))])

    # The fraction of samples, so that items weigh alike.
    ended = sum(emitted_eos(text, stop) for text in generated)
    return [record | {"ended": ended / len(generated)}]


def emitted_eos(text: str, stop: Sequence[str]) -> float:
    """1 where the model ended a text by EOS, the last of the stop texts, before any other."""
    return float(text[len(truncate_at_stop(text, stop)) :].startswith(stop[-1]))
