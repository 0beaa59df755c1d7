"""From an example to token ids: loss on the response only, its first token and its EOS included.

An example with an empty prompt is a document: no template, and loss on all of it.
"""

import dataclasses

from lfl_jax.config import own_code
from lfl_jax.config.own_code import Code
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.text.chat import TEMPLATES, Template
from lfl_jax.text.tokenizer import Tokenizer
from lfl_jax.text.tokenizer_files import with_eos
from lfl_jax.text.tokenizer_template import from_tokenizer


def find_template(
    name: str, tokenizer: Tokenizer | None = None, code: Code = own_code.NOTHING
) -> Template:
    """The template that config.data.template names; UserError lists the names that exist.

    name: one of TEMPLATES, "tokenizer" for the template it carries, or FILE.py:NAME of your own.
    code: the files of your own that may run.
    """
    if own_code.is_place(name):
        return _own_template(name, code)
    if name == "tokenizer":
        return from_tokenizer(tokenizer)
    if name not in TEMPLATES:
        names = ", ".join([*TEMPLATES, "tokenizer"])
        raise UserError(
            f"config.data.template={name!r} is unknown; there are: {names}, and your own as"
            " FILE.py:NAME"
        )
    return TEMPLATES[name]


def _own_template(name: str, code: Code) -> Template:
    """A Template of your own, or one made of your function from turns to pieces."""
    template = own_code.find(
        code, "data.template", name, lambda x: isinstance(x, Template) or callable(x)
    )
    if isinstance(template, Template):
        return template
    return Template(own_code.split(name)[1], template)


def with_end_token(tokenizer: Tokenizer, end_token: str) -> Tokenizer:
    """The tokenizer with this token as EOS, which training appends and generation stops at.

    "" keeps the tokenizer's own. Raises UserError for text that is not one of its tokens.
    """
    if not end_token:
        return tokenizer
    ids = tokenizer.encode_continuation(end_token)
    if len(ids) != 1:
        raise UserError(
            f"config.data.end_token={end_token!r} is {len(ids)} tokens of this tokenizer, not one;"
            f" its own end token is {tokenizer.eos!r}"
        )

    # The files change, too: an exported model has to stop where this one was trained to.
    def files() -> dict[str, bytes]:
        return with_eos(tokenizer.files(), end_token)

    return dataclasses.replace(tokenizer, eos=end_token, eos_id=ids[0], files=files)


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt: BOS first where the tokenizer adds one and the text has none.

    transformers adds a second BOS to a text that begins with one; lm-evaluation-harness does not,
    and neither does this. Otherwise these are transformers' ids.
    """
    ids = tokenizer.encode(prompt)
    # A text may be written with its BOS, as a chat template does.
    needs_bos = tokenizer.add_bos and ids[:1] != [tokenizer.bos_id]
    return [tokenizer.bos_id, *ids] if needs_bos else ids


def document_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of [BOS] text EOS."""
    return [*prompt_ids(text, tokenizer), tokenizer.eos_id]


def token_ids(
    example: Example, template: Template, tokenizer: Tokenizer, loss_turns: str = "all"
) -> tuple[list[int], list[bool]]:
    """Ids of [BOS] prompt response EOS, and a flag per id: does it carry loss?

    The response and EOS do. In a conversation every assistant turn does (loss_turns="all"), or the
    last one only ("last"). A document carries loss on all but BOS. Raises UserError, which names
    the example, for turns that the template cannot express.
    """
    if example.is_document:
        ids = document_ids(example.response, tokenizer)
        return ids, [ids[0] != tokenizer.bos_id, *[True] * (len(ids) - 1)]

    try:
        pieces = template.render_turns(example.conversation)
    except UserError as error:
        raise UserError(f"example {example.id}: {error}") from error

    # Pieces are tokenised apart, so that a prompt has the same ids in training and evaluation.
    ids, loss = [], []
    for i, (text, is_answer) in enumerate(pieces):
        new = prompt_ids(text, tokenizer) if i == 0 else tokenizer.encode_continuation(text)
        is_trained = is_answer and (loss_turns == "all" or i == len(pieces) - 1)
        ids += new
        loss += [is_trained] * len(new)
    return [*ids, tokenizer.eos_id], [*loss, True]
