"""MMLU: questions of 57 subjects with choices A to D (Hendrycks et al., arXiv 2009.03300).

Prompts of lm-evaluation-harness: the choices stand in the prompt, and the letter is scored. Its
shots are the first of the subject's dev questions; `mmlu` has none, as there by default, and
`mmlu_5shot` has five, as in most publications, whatever config.eval.shots says. Five shots need
longer rows than the default: see `truncated` in the records.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lfl_jax.errors import UserError
from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs, Likelihood, Record, Task

LETTERS = ("A", "B", "C", "D")


def questions(inputs: Inputs, shots: int = 0) -> list[Question]:
    """The test questions, every one its own cluster; "subject/number" is the id. UserError for too
    few dev questions.

    Documents hold question, answer (a letter or an index), subject, and choices or columns A to D.
    """
    dev = by_subject(inputs.docs("mmlu-dev")) if shots else {}
    made = []
    for subject, docs in by_subject(inputs.docs("mmlu-test")).items():
        examples = dev.get(subject, [])[:shots]
        if len(examples) < shots:
            raise UserError(
                f"MMLU with {shots} shots: subject {subject!r} has {len(examples)} dev questions"
            )
        head = description(subject) + "".join(
            f"{prompt(doc)} {LETTERS[gold(doc)]}\n\n" for doc in examples
        )
        made += [
            question(doc, inputs.preamble(head), f"{subject}/{i}") for i, doc in enumerate(docs)
        ]
    return made


def by_subject(docs: Sequence[dict]) -> dict[str, list[dict]]:
    """The documents of each subject, in order."""
    found: dict[str, list[dict]] = {}
    for doc in docs:
        if "subject" not in doc:
            raise UserError(f"MMLU: a document has no subject; its fields are {', '.join(doc)}")
        found.setdefault(doc["subject"], []).append(doc)
    return found


def question(doc: dict, head: str, name: str) -> Question:
    """From a document and what stands before it."""
    context = head + prompt(doc)
    return Question(
        name, name, tuple((context, f" {letter}") for letter in LETTERS), LETTERS, gold(doc)
    )


def description(subject: str) -> str:
    """The sentence that opens a prompt."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def prompt(doc: Mapping) -> str:
    """Question and choices, up to where the letter belongs; UserError unless there are four
    choices."""
    choices = (
        doc["choices"] if "choices" in doc else [doc[letter] for letter in LETTERS if letter in doc]
    )
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
    """Of a record, from its id."""
    return record["id"].rpartition("/")[0]


def task(name: str, label: str, shots: int) -> Task:
    """MMLU after so many shots: acc over all questions (the harness's), and its mean over subjects
    (arXiv 2405.09673, appendix C)."""
    items = functools.partial(questions, shots=shots)
    accuracy, *others = multiple_choice.metrics(("acc",))
    others = [
        replace(metric, in_table=metric.name == "gold_logprob_norm") for metric in others
    ]  # letters are all alike
    by_subject_mean = replace(accuracy, name="acc_subject_mean", macro=subject, in_table=False)
    method = Likelihood(multiple_choice.requests, multiple_choice.record)
    return Task(name, 2, label, items, method, (accuracy, by_subject_mean, *others))


TASK = task("mmlu", "MMLU", 0)
FIVE_SHOT = task("mmlu_5shot", "MMLU 5-shot", 5)
