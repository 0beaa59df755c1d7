"""Prompt formats: a question, or a conversation, as the text a model is trained on.

An example's ids are `encode(prompt) + encode_continuation(response) + [eos]`, so that a prompt has
the same ids in training and evaluation. Every format puts the boundary where byte-level BPE and
SentencePiece cut anyway, so that these are also the ids of the text in one piece. For that the
answer must not begin with white space (in `plain` and `llama2` it may).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lfl_jax.errors import UserError

# Role and text. Roles: "system", "user", "assistant", "tool", and "input": the text that the user
# turn before it is about (Alpaca's input, Dolly's context). Formats without a section for it append
# it to that turn.
Turn = tuple[str, str]
Piece = tuple[str, bool]  # text, and whether it carries loss

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request."
)
_ALPACA_INPUT_SYSTEM = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context. Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """A prompt format; `pieces` writes checked turns as text pieces, each with or without loss."""

    name: str
    pieces: Callable[[list[Turn]], list[Piece]]
    # The special tokens that it writes, which should be single tokens of the tokenizer.
    markers: tuple[str, ...] = ()
    # The one of them that ends an assistant turn; "" where that is left to the tokenizer's EOS.
    end: str = ""
    tools: bool = False  # it can write "tool" turns
    keeps_input: bool = False  # it has a section for "input" turns
    any_order: bool = False  # it decides itself which roles may follow each other

    def render(self, question: str, answer: str) -> tuple[str, str]:
        """One question and its answer: prompt, and response without EOS, which callers append."""
        return self.prompt_and_response([("user", question), ("assistant", answer)])

    def prompt_and_response(self, turns: Sequence[Turn]) -> tuple[str, str]:
        """A conversation that ends with an answer: the text before it, and it, as in `render`."""
        *before, (response, _) = self.render_turns(turns)
        return "".join(text for text, _ in before), response

    def render_turns(self, turns: Sequence[Turn]) -> list[Piece]:
        """A conversation as text pieces in order, each with a flag: does it carry loss?

        Assistant turns do, with the marker that ends them. A last user turn is followed by the
        beginning of an answer, ready for generation. The EOS of a last assistant turn is left to
        the caller, as in `render`. Turns are an optional system turn, then user and assistant in
        alternation, with tool results in place of user turns. Raises UserError for another order,
        and for more turns than the format can hold.
        """
        if self.any_order:
            return self.pieces(with_inputs(turns))
        _check_order(self, turns)
        return self.pieces(list(turns) if self.keeps_input else with_inputs(turns))


def with_inputs(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with every "input" appended to the turn before it, on a line of its own."""
    merged: list[Turn] = []
    for role, text in turns:
        if role == "input":
            role, question = merged.pop()
            text = f"{question}\n{text}"
        merged.append((role, text))
    return merged


def check_order(turns: Sequence[Turn]) -> str:
    """An error message for the order of these turns; "" if it is right."""
    roles = [role for role, _ in turns if role != "input"]
    after_system = roles[1:] if roles[:1] == ["system"] else roles
    # Several tool results in a row are one turn.
    speakers = [
        role
        for before, role in zip(["", *after_system], after_system, strict=False)
        if (before, role) != ("tool", "tool")
    ]
    asked, answers = speakers[::2], speakers[1::2]
    questions_are_right = asked[:1] == ["user"] and set(asked) <= {"user", "tool"}
    if questions_are_right and set(answers) <= {"assistant"}:
        return ""
    return (
        f"turns {roles}; expected 'user' and 'assistant' in alternation, after at most one"
        " 'system', with 'tool' in place of later 'user' turns"
    )


def _check_order(template: Template, turns: Sequence[Turn]) -> None:
    problem = check_order(turns)
    if problem:
        raise UserError(f"template {template.name!r}: {problem}")
    if not template.tools and any(role == "tool" for role, _ in turns):
        raise UserError(
            f"template {template.name!r} has no place for what a tool returns; use 'chatml' or"
            " 'tokenizer'"
        )


def _split_system(turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    """The system turn's text, and the turns after it."""
    return (turns[0][1], turns[1:]) if turns[0][0] == "system" else (None, turns)


def _one_exchange(
    name: str, turns: list[Turn], prompt: Callable[[str, str | None], str], before: str
) -> list[Piece]:
    """The prompt of (question, system text), and `before` with the answer."""
    system, turns = _split_system(turns)
    if len(turns) > 2:
        raise UserError(
            f"template {name!r} holds one question and one answer, not {len(turns)} turns; use"
            " 'chatml'"
        )
    answers = [(before + answer, True) for _, answer in turns[1:]]
    return [(prompt(turns[0][1], system), False), *answers]


def _plain(turns: list[Turn]) -> list[Piece]:
    """lm-evaluation-harness's GSM8K task: "Question: ...\\nAnswer:", a space, and the response."""

    def prompt(question: str, system: str | None) -> str:
        return ("" if system is None else f"{system}\n\n") + f"Question: {question}\nAnswer:"

    return _one_exchange("plain", turns, prompt, " ")


def _bare(turns: list[Turn]) -> list[Piece]:
    """The question, a space, and the response: nothing that a small vocabulary does not have."""

    def prompt(question: str, system: str | None) -> str:
        return question if system is None else f"{system} {question}"

    return _one_exchange("bare", turns, prompt, " ")


def _alpaca(turns: list[Turn]) -> list[Piece]:
    """Stanford Alpaca's two prompts, with and without input; a system turn replaces the preamble.

    An input of blanks counts as none. The prompts end with a line break, as alpaca-lora's do: after
    Stanford's own, which end with the colon, a response that begins with punctuation would be
    joined to it.
    """
    inputs = [text for role, text in turns if role == "input" and text.strip()]
    preamble = _ALPACA_INPUT_SYSTEM if inputs else _ALPACA_SYSTEM
    section = "".join(f"### Input:\n{text}\n\n" for text in inputs)

    def prompt(question: str, system: str | None) -> str:
        first = preamble if system is None else system
        return f"{first}\n\n### Instruction:\n{question}\n\n{section}### Response:\n"

    turns = [turn for turn in turns if turn[0] != "input"]
    return _one_exchange("alpaca", turns, prompt, "")


def _llama2(turns: list[Turn]) -> list[Piece]:
    """Llama-2-chat: turns stripped, the system turn in the first user turn, answers between spaces.

    The first BOS is left to the caller (the tokenizer's `add_bos`); each later exchange begins with
    its own.
    """
    system, turns = _split_system(turns)
    system = "" if system is None else f"<<SYS>>\n{system}\n<</SYS>>\n\n"
    pieces: list[Piece] = []
    for role, text in turns:
        if role == "assistant":
            pieces.append((f" {text.strip()} ", True))
            continue
        question = f"[INST] {(system + text).strip()} [/INST]"
        if pieces:
            # Only now is it known that the answer before was not the last one: it ends with EOS.
            pieces[-1] = (pieces[-1][0] + "</s>", True)
            question = "<s>" + question
        pieces.append((question, False))
        system = ""
    return pieces


def _chatml(turns: list[Turn]) -> list[Piece]:
    """ChatML, where the end of a response, <|im_end|>, is the EOS."""
    pieces: list[Piece] = []
    context = ""  # text without loss since the last answer
    for role, text in turns:
        if role == "assistant":
            pieces += [(context + "<|im_start|>assistant\n", False), (text, True)]
            context = ""
            continue
        if pieces and not context:
            # An answer that is not the last one learns to end its turn.
            pieces[-1] = (pieces[-1][0] + "<|im_end|>", True)
            context = "\n"
        context += f"<|im_start|>{role}\n{text}<|im_end|>\n"
    if context:
        pieces.append((context + "<|im_start|>assistant\n", False))
    return pieces


def _smollm2(turns: list[Turn]) -> list[Piece]:
    """The template inside SmolLM2: ChatML, with its own system turn as the default."""
    return _chatml(turns if turns[0][0] == "system" else [("system", SMOLLM2_SYSTEM), *turns])


CHATML = {"markers": ("<|im_start|>", "<|im_end|>"), "end": "<|im_end|>", "tools": True}
TEMPLATES: dict[str, Template] = {
    "plain": Template("plain", _plain),
    "bare": Template("bare", _bare),
    "alpaca": Template("alpaca", _alpaca, keeps_input=True),
    "llama2": Template("llama2", _llama2, markers=("<s>", "</s>"), end="</s>"),
    "chatml": Template("chatml", _chatml, **CHATML),
    "smollm2": Template("smollm2", _smollm2, **CHATML),
}
