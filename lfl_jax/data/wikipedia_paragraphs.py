"""Paragraphs of Wikipedia, to be replayed: general prose, of which source_nll reads none.

They are what 1,000 questions of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250) are asked
about: 803 paragraphs of 48 articles. None of them shares 13 words in a row with a paragraph of
BoolQ, which source_nll scores by default. An article is a cluster.
"""

import functools
import hashlib
import re

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.data.examples import Example
from lfl_jax.data.splits import check, digest, split_index
from lfl_jax.errors import UserError

ITEM = "squad"
# A paragraph has no line that begins with "Question:".
QUERY = re.compile(r"Title: (?P<title>.*?)\nBackground: (?P<text>.*)\nQuestion: ", re.DOTALL)


@functools.cache
def paragraphs() -> tuple[tuple[str, str], ...]:
    """(article, text) of every paragraph, in the order of the questions."""
    title_of: dict[str, str] = {}
    for doc in readers.docs(ITEM):
        query = QUERY.match(doc["query"])
        if query is None:
            raise UserError(f"{ITEM}: no paragraph in {doc['query'][:80]!r}; fetch it again")
        # Several questions ask about one paragraph.
        title_of.setdefault(query["text"], query["title"])
    return tuple((title, text) for text, title in title_of.items())


def documents(split: str) -> list[Example]:
    """The paragraphs of a split; 2 % of the articles each are held out."""
    check(split, "wikipedia_paragraphs")
    everything = paragraphs()
    index = split_index([digest(title) for title, _ in everything], split)
    chosen = [(i, *everything[i]) for i in index.tolist()]
    return [Example("", text, id=f"{title}:{i}", cluster=title) for i, title, text in chosen]


def sha256() -> str:
    """Of the fetched file."""
    files = assets.provenance(ITEM)["files"]
    return hashlib.sha256("".join(file["sha256"] for file in files.values()).encode()).hexdigest()
