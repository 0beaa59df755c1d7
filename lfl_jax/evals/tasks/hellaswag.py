"""HellaSwag: which of four endings continues a description of an everyday scene.

Zellers et al. 2019, arXiv 1905.07830. Data: validation split, 10042 questions, MIT licence. The
first of them, as a prompt and four continuations that are scored:

    Roof shingle removal: A man is sitting on a roof. He
     is using wrap to wrap a pair of skis.
     is ripping level tiles off.
     is holding a rubik's cube.
     starts pulling up roofing on a roof.      <- gold

Metrics, as in lm-evaluation-harness's `hellaswag`: acc_norm (main) predicts the ending of the
largest log-probability per character, acc that of the largest log-probability.
"""

import re

from lfl_jax.evals import multiple_choice
from lfl_jax.evals.multiple_choice import Question
from lfl_jax.evals.task import Inputs


def questions(inputs: Inputs) -> list[Question]:
    """The validation split; an id is the index there, as the data's own `ind` is not unique."""
    return [question(doc, str(i)) for i, doc in enumerate(inputs.docs("hellaswag"))]


def question(doc: dict, name: str) -> Question:
    """From an original document; questions on the same video or article are one cluster."""
    # capitalize() also lower-cases what follows the first letter, in the harness, too.
    context = clean(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")
    # The space before an ending belongs to what is scored, not to its number of characters.
    endings = tuple(clean(ending) for ending in doc["endings"])
    pairs = tuple((context, f" {ending}") for ending in endings)
    return Question(name, doc["source_id"], pairs, endings, int(doc["label"]))


def clean(text: str) -> str:
    """Without WikiHow's bracketed marks; double spaces are halved once, as the harness does."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


# acc_norm first: endings differ in length, and long ones have small probabilities.
TASK = multiple_choice.task("hellaswag", 2, "HellaSwag", questions, ("acc_norm", "acc"))
