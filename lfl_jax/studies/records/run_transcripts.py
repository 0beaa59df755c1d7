"""Transcripts of a run directory: its records hold answers, and its config the questions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lfl_jax.core.files import expecting
from lfl_jax.evals import records as record_files
from lfl_jax.evals.metrics import Record
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs, Item, PromptedItem
from lfl_jax.evals.tasks import TASKS
from lfl_jax.studies.records.transcripts import Choice, Transcript, of_choices

# The fields in which tasks record the right answer of a generated one.
REFERENCES = ("gold", "value")


def read(folder: Path, task: str) -> dict[str, Transcript]:
    """{item: its answer} of a folder of evaluations, without the question."""
    _, records = record_files.read(folder / f"{task}.jsonl")
    with expecting(folder / f"{task}.jsonl", f"answers of {task}"):
        return {record["id"]: _answer(record) for record in records}


def _answer(record: Record) -> Transcript:
    if "ll" in record:
        choices = tuple(map(Choice, record["ll"]))
        return Transcript(choices=choices, gold=record["gold"])
    if "samples" in record:
        # Of several samples the first one, as others are of the same kind.
        return Transcript(output=record["samples"][0]["code"])
    if "text" in record:
        references = [str(record[name]) for name in REFERENCES if name in record]
        return Transcript(output=record["text"], reference=references[0] if references else "")
    # A fact whose only answer was scored.
    return Transcript(choices=(Choice(record["gold_logprob"]),) if "gold_logprob" in record else ())


def with_questions(
    folder: Path, inputs: Callable[[], Inputs], task: str
) -> Mapping[str, Transcript]:
    """`read`, with questions and the texts of choices, made of the run's inputs as they were.

    Items are the run's own where their contents have the hash that the records were made with;
    where they do not, as data was replaced or is not on this machine, questions stay empty.
    """
    answers = read(folder, task)
    header, _ = record_files.read(folder / f"{task}.jsonl")
    try:
        items = [item for item in TASKS[task].items(inputs()) if item.id in answers]
    # Whatever keeps data from being read here is no reason to have no report.
    except Exception:
        return answers
    if _digest(items) != (header["settings"] or {}).get("content"):
        return answers
    return {item.id: _asked(item, answers[item.id]) for item in items}


def _digest(items: Sequence[Item]) -> str:
    return record_files.digest([dataclasses.asdict(item) for item in items])


def _asked(item: Item, answer: Transcript) -> Transcript:
    if isinstance(item, Question):
        logprobs = [choice.logprob for choice in answer.choices]
        return of_choices(item.pairs, logprobs, answer.gold)
    if isinstance(item, PromptedItem):
        return dataclasses.replace(answer, question=item.prompt)
    return answer
