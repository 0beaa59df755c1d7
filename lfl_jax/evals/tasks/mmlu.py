"""MMLU: exam questions of 57 subjects with choices A to D.

Hendrycks et al. 2020, arXiv 2009.03300. Data: test split, 14042 questions, MIT licence; named by
the user (config.eval.files), not fetched. The choices are part of the prompt, and the letters are
the continuations that are scored, as in lm-evaluation-harness's `mmlu`:

    The following are multiple choice questions (with answers) about abstract algebra.

    Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.
    A. 0
    B. 4
    C. 2
    D. 6
    Answer:
     A  |   B  <- gold  |   C  |   D

`mmlu` has no few-shot examples, the harness's default. `mmlu_5shot` has the subject's five dev
questions before each, as most publications do, whatever config.eval.shots says; they need longer
rows than the default (see `truncated` in the records).

Metrics: acc (main) is the accuracy over all questions, acc_subject_mean the mean of the subjects'
accuracies, which "LoRA Learns Less and Forgets Less" reports (arXiv 2405.09673, appendix C).
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lfl_jax.errors import UserError
from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task

# The continuations, and the labels of the choices in the prompt.
LETTERS = ("A", "B", "C", "D")


def questions(inputs: Inputs, shots: int = 0) -> list[Question]:
    """The test questions, each its own cluster with the id "subject/index".

    Documents have question, answer (a letter or an index), subject, and choices or columns A to D.
    Raises UserError for a subject with fewer dev questions than shots.
    """
    dev = by_subject(inputs.docs("mmlu-dev")) if shots else {}
    of_all_subjects: list[Question] = []
    for subject, docs in by_subject(inputs.docs("mmlu-test")).items():
        examples = dev.get(subject, [])[:shots]
        if len(examples) < shots:
            raise UserError(
                f"MMLU with {shots} shots: subject {subject!r} has {len(examples)} dev questions"
            )
        # All questions of a subject have the same examples: its first dev questions.
        few_shot = "".join(f"{prompt(doc)} {LETTERS[gold(doc)]}\n\n" for doc in examples)
        preamble = inputs.preamble(description(subject) + few_shot)
        of_all_subjects += [question(doc, preamble, f"{subject}/{i}") for i, doc in enumerate(docs)]
    return of_all_subjects


def by_subject(docs: Sequence[dict]) -> dict[str, list[dict]]:
    """The documents of each subject, in order."""
    subjects: dict[str, list[dict]] = {}
    for doc in docs:
        if "subject" not in doc:
            raise UserError(f"MMLU: a document has no subject; its fields are {', '.join(doc)}")
        subjects.setdefault(doc["subject"], []).append(doc)
    return subjects


def question(doc: dict, preamble: str, name: str) -> Question:
    """From a document and the text before it."""
    context = preamble + prompt(doc)
    pairs = tuple((context, f" {letter}") for letter in LETTERS)
    return Question(name, name, pairs, LETTERS, gold(doc))


def description(subject: str) -> str:
    """The sentence that opens a prompt."""
    topic = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {topic}.\n\n"


def prompt(doc: Mapping) -> str:
    """Question and choices up to "Answer:"; UserError unless there are four choices."""
    # The original files have columns A to D, the hub's a list.
    columns = [doc[letter] for letter in LETTERS if letter in doc]
    choices = doc.get("choices", columns)
    if len(choices) != len(LETTERS):
        raise UserError(f"MMLU: expected four choices, as choices or A to D, of {str(doc)[:200]}")
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([doc["question"].strip(), *lines, "Answer:"])


def gold(doc: Mapping) -> int:
    """The index of the right choice; UserError where `answer` names none."""
    answer = str(doc.get("answer"))
    if answer in LETTERS:
        return LETTERS.index(answer)
    if answer in ("0", "1", "2", "3"):
        return int(answer)
    raise UserError(f"MMLU: an answer is A to D or 0 to 3, not {answer!r}")


def subject(record: Record) -> str:
    """The subject of a record, from its id."""
    # rpartition, as a subject's name may have a slash and an index has none
    return record["id"].rpartition("/")[0]


def task(name: str, label: str, shots: int) -> Task:
    """MMLU after so many few-shot examples."""
    accuracy, *continuous = multiple_choice.metrics(("acc",))
    subject_mean = replace(accuracy, name="acc_subject_mean", macro=subject, in_table=False)
    # One row in the table for the others, as all letters have the same length.
    others = [replace(m, in_table=m.name == "gold_logprob_norm") for m in continuous]
    items = functools.partial(questions, shots=shots)
    method = Likelihood(multiple_choice.requests, multiple_choice.record)
    return Task(name, 2, label, items, method, (accuracy, subject_mean, *others))


TASK = task("mmlu", "MMLU", 0)
FIVE_SHOT = task("mmlu_5shot", "MMLU 5-shot", 5)
