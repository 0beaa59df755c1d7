"""A tokenizer's own chat template for training: its text, and which of it the assistant says.

Where the template marks that itself with {% generation %}, the marks are taken. Otherwise an answer
is what the text
gains with it: the text of the turns before it, up to where an answer begins, must then be the
beginning of the whole.
"""

from collections.abc import Sequence

from lfl_jax.errors import UserError
from lfl_jax.text import jinja
from lfl_jax.text.chat import Piece, Template, Turn
from lfl_jax.text.tokenizer import Tokenizer


def from_tokenizer(tokenizer: Tokenizer | None) -> Template:
    """The template that a tokenizer carries; UserError where it has none."""
    if tokenizer is None or tokenizer.chat_template is None:
        raise UserError(
            "config.data.template=tokenizer: this tokenizer carries no chat template; name one of"
            " ours"
        )
    return Template("tokenizer", lambda turns: pieces(turns, tokenizer), tools=True, any_order=True)


def pieces(turns: Sequence[Turn], tokenizer: Tokenizer) -> list[Piece]:
    """The conversation as text without and with loss, as `Template.pieces` writes it."""
    template = tokenizer.chat_template or ""
    messages = [{"role": role, "content": text} for role, text in turns]
    answered = turns[-1][0] == "assistant"
    if jinja.marks_answers(template):
        text = jinja.whole(template, messages, not answered, tokenizer, marked=True)
        found = _by_marks(text)
    else:
        text = jinja.whole(template, messages, not answered, tokenizer)
        found = _by_prefixes(text, messages, tokenizer)
    if not answered:
        return found
    if not any(loss for _, loss in found):
        raise UserError(
            "the tokenizer's chat template holds {% generation %}, but nothing of this conversation"
            " in it"
        )
    return _without_last_end(found, tokenizer.eos)


def _by_marks(text: str) -> list[Piece]:
    """Pieces by the marks around what {% generation %} held."""
    found: list[Piece] = []
    for part in text.split(jinja.START):
        spoken, mark, rest = part.rpartition(jinja.END)
        found += [(spoken, True), (rest, False)] if mark else [(part, False)]
    return found


def _by_prefixes(text: str, messages: list[jinja.Message], tokenizer: Tokenizer) -> list[Piece]:
    """Pieces by what each answer adds to the text; white space after its end is no part of it."""
    template, found, end = tokenizer.chat_template or "", [], 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = jinja.whole(template, messages[:i], True, tokenizer)
        until = jinja.whole(template, messages[: i + 1], False, tokenizer)
        if not text.startswith(until) or not until.startswith(before):
            raise UserError(_no_prefix(text, before if text.startswith(until) else until))
        spoken = until[len(before) :]
        stop = len(before) + len(spoken.rstrip() or spoken)
        found += [(text[end : len(before)], False), (text[len(before) : stop], True)]
        end = stop
    return [*found, (text[end:], False)]


def _no_prefix(text: str, part: str) -> str:
    """Where the text of the first turns departs from that of all."""
    at = next(
        (i for i, (a, b) in enumerate(zip(part, text, strict=False)) if a != b),
        min(len(part), len(text)),
    )
    shown = (repr(x[max(0, at - 20) : at + 20]) for x in (part, text))
    return (
        "the tokenizer's chat template writes earlier turns otherwise once an answer follows them"
        f" ({' against '.join(shown)}), so what the assistant says cannot be told apart; mark it in"
        " the template with"
        " {% generation %}, or name another config.data.template"
    )


def _without_last_end(found: list[Piece], eos: str) -> list[Piece]:
    """The pieces up to the last answer, without the EOS at its end, which the caller appends."""
    last = max(i for i, (_, loss) in enumerate(found) if loss)
    spoken = found[last][0]
    kept = spoken.rstrip().removesuffix(eos) if spoken.rstrip().endswith(eos) else spoken
    return [*found[:last], (kept, True)]
