"""A tokenizer's own chat template for training: its text, and the part that the assistant says.

A template may mark that part itself with {% generation %}. Otherwise an answer is the text that the
conversation gains with it. For that, the text of the turns before an answer, up to where it begins,
must be the beginning of the text of all turns.
"""

from collections.abc import Sequence

from lfl_jax.errors import UserError
from lfl_jax.text import jinja
from lfl_jax.text.chat import Piece, Template, Turn
from lfl_jax.text.tokenizer import Tokenizer

EXCERPT = 20  # characters on each side of a difference, in an error


def from_tokenizer(tokenizer: Tokenizer | None) -> Template:
    """The template of a tokenizer; UserError where it has none."""
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
    is_answered = turns[-1][0] == "assistant"
    is_marked = jinja.marks_answers(template)
    text = jinja.complete_text(template, messages, not is_answered, tokenizer, marked=is_marked)

    split = _by_marks(text) if is_marked else _by_prefixes(text, messages, tokenizer)
    if not is_answered:
        return split
    if not any(loss for _, loss in split):
        raise UserError(
            "the tokenizer's chat template holds {% generation %}, but nothing of this conversation"
            " in it"
        )
    return _without_last_eos(split, tokenizer.eos)


def _by_marks(text: str) -> list[Piece]:
    """Pieces by the marks around the content of {% generation %}."""
    split: list[Piece] = []
    for part in text.split(jinja.START):
        spoken, mark, after = part.rpartition(jinja.END)
        split += [(spoken, True), (after, False)] if mark else [(part, False)]
    return split


def _by_prefixes(text: str, messages: list[jinja.Message], tokenizer: Tokenizer) -> list[Piece]:
    """Pieces by what each answer adds to the text."""
    template = tokenizer.chat_template or ""
    split: list[Piece] = []
    end = 0  # of the last answer
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = jinja.complete_text(template, messages[:i], True, tokenizer)
        until = jinja.complete_text(template, messages[: i + 1], False, tokenizer)
        if not text.startswith(until) or not until.startswith(before):
            raise _prefix_error(text, before if text.startswith(until) else until)

        # White space after its end separates turns and is no part of the answer.
        spoken, start = until[len(before) :], len(before)
        stop = start + len(spoken.rstrip() or spoken)
        split += [(text[end:start], False), (text[start:stop], True)]
        end = stop
    return [*split, (text[end:], False)]


def _prefix_error(text: str, prefix: str) -> UserError:
    """The error for a text of the first turns that is no prefix of the text of all turns."""
    differing = (i for i, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b)
    at = next(differing, min(len(prefix), len(text)))
    excerpt = slice(max(0, at - EXCERPT), at + EXCERPT)
    return UserError(
        "the tokenizer's chat template writes earlier turns otherwise once an answer follows them"
        f" ({prefix[excerpt]!r} against {text[excerpt]!r}), so what the assistant says cannot be"
        " told apart; mark it in the template with {% generation %}, or name another"
        " config.data.template"
    )


def _without_last_eos(split: list[Piece], eos: str) -> list[Piece]:
    """The pieces up to the last answer, without the EOS at its end, which the caller appends."""
    last = max(i for i, (_, loss) in enumerate(split) if loss)
    answer = split[last][0]
    if answer.rstrip().endswith(eos):
        answer = answer.rstrip().removesuffix(eos)
    return [*split[:last], (answer, True)]
