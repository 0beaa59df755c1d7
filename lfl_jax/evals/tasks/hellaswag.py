"""HellaSwag: which of four endings continues a description (Zellers et al., arXiv 1905.07830)."""

import re

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs


def questions(inputs: Inputs) -> list[Question]:
    """The validation split; questions about the same video or article (`source_id`) are one
    cluster."""
    return [question(doc, str(i)) for i, doc in enumerate(inputs.docs("hellaswag"))]


def question(doc: dict, number: str) -> Question:
    """From an original document; its position in the split is its id, since its own `ind` is not
    unique.

    The context's second part is capitalised, which lower-cases its rest.
    """
    context = clean(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")
    choices = tuple(clean(ending) for ending in doc["endings"])
    pairs = tuple((context, f" {choice}") for choice in choices)
    return Question(number, doc["source_id"], pairs, choices, int(doc["label"]))


def clean(text: str) -> str:
    """Without WikiHow's bracketed marks; double spaces are halved once, as the harness does."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


TASK = multiple_choice.task("hellaswag", 2, "HellaSwag", questions, ("acc_norm", "acc"))
