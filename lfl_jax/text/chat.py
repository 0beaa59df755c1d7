"""Prompt formats: how a question, or a conversation, becomes the text a model is trained on.

An example's ids are `encode(prompt) + encode_continuation(response) + [eos]`, so a prompt has the
same ids in training and at evaluation, whatever follows it. Every format also puts the boundary
where byte-level BPE and SentencePiece cut anyway, so that these are the ids of the whole text,
provided that the answer does not begin with white space (in `plain` and `llama2` it may).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lfl_jax.errors import UserError

# Role and text. Roles: "system", "user", "assistant", "tool", and "input" for what a user turn
# before it is about (Alpaca's input, Dolly's context), which formats without a place of its own
# append to that turn.
Turn = tuple[str, str]
Piece = tuple[str, bool]  # text, and whether it carries loss

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request."
)
_ALPACA_INPUT_SYSTEM = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context."
    " Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """A prompt format; `pieces` writes checked turns as alternating text without and with loss.

    markers: special tokens it is written with, which should be single tokens of the tokenizer.
    end: of these, the one that ends what the assistant says; "" where that is left to the
    tokenizer's EOS.
    tools: whether it has a place for "tool" turns.
    """

    name: str
    pieces: Callable[[list[Turn]], list[Piece]]
    markers: tuple[str, ...] = ()
    end: str = ""
    tools: bool = False
    keeps_input: bool = False  # whether `pieces` writes "input" turns in a place of their own
    any_order: bool = False  # whether `pieces` itself decides which roles may follow each other

    def render(self, question: str, answer: str) -> tuple[str, str]:
        """Write one question and its answer: prompt, and response without the EOS that the caller
        appends."""
        return self.prompt_and_response([("user", question), ("assistant", answer)])

    def prompt_and_response(self, turns: Sequence[Turn]) -> tuple[str, str]:
        """Write a conversation that ends with an answer: all before that, and the answer, as in
        `render`."""
        *before, (response, _) = self.render_turns(turns)
        return "".join(text for text, _ in before), response

    def render_turns(self, turns: Sequence[Turn]) -> list[Piece]:
        """Write a conversation as text pieces in order, each with a flag: does it carry loss?

        Only what the assistant says does, and the marker that ends its turn. After a last user turn
        comes what begins an answer, ready for generation. The EOS of a last assistant turn is left
        to the caller, as in `render`. Raises UserError unless the turns are an optional system
        turn, then user and assistant in alternation (tool results stand where the user does), and
        if a format for one exchange is given more.
        """
        if self.any_order:
            return self.pieces(with_inputs(turns))
        _check_order(self, turns)
        return self.pieces(list(turns) if self.keeps_input else with_inputs(turns))


def with_inputs(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with every "input" appended to the turn before it, on a line of its own."""
    found: list[Turn] = []
    for role, text in turns:
        if role == "input":
            asker, question = found.pop()
            role, text = asker, f"{question}\n{text}"
        found.append((role, text))
    return found


def check_order(turns: Sequence[Turn]) -> str:
    """What is wrong with the order of these turns; "" if nothing is."""
    roles = [role for role, _ in turns if role != "input"]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    askers = [
        role
        for before, role in zip(["", *spoken], spoken, strict=False)
        if (before, role) != ("tool", "tool")
    ]
    expected = [("user", "tool") if i % 2 == 0 else ("assistant",) for i in range(len(askers))]
    if askers[:1] == ["user"] and all(
        role in legal for role, legal in zip(askers, expected, strict=True)
    ):
        return ""
    return (
        f"turns {roles}; expected 'user' and 'assistant' in alternation, after at most one"
        " 'system', with 'tool' in"
        " place of later 'user' turns"
    )


def _check_order(template: Template, turns: Sequence[Turn]) -> None:
    if wrong := check_order(turns):
        raise UserError(f"template {template.name!r}: {wrong}")
    if not template.tools and any(role == "tool" for role, _ in turns):
        raise UserError(
            f"template {template.name!r} has no place for what a tool returns; use 'chatml' or"
            " 'tokenizer'"
        )


def _split_system(turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    return (turns[0][1], turns[1:]) if turns[0][0] == "system" else (None, turns)


def _one_exchange(
    name: str, turns: list[Turn], prompt: Callable[[str, str | None], str], before: str
) -> list[Piece]:
    system, turns = _split_system(turns)
    if len(turns) > 2:
        raise UserError(
            f"template {name!r} holds one question and one answer, not {len(turns)} turns; use"
            " 'chatml'"
        )
    return [
        (prompt(turns[0][1], system), False),
        *((before + answer, True) for _, answer in turns[1:]),
    ]


def _plain(turns: list[Turn]) -> list[Piece]:
    """Follow lm-evaluation-harness's GSM8K task: "Question: ...\\nAnswer:" and a response after one
    space."""

    def prompt(question: str, system: str | None) -> str:
        return ("" if system is None else f"{system}\n\n") + f"Question: {question}\nAnswer:"

    return _one_exchange("plain", turns, prompt, " ")


def _alpaca(turns: list[Turn]) -> list[Piece]:
    """Follow Stanford Alpaca's two prompts, with and without input; a system turn replaces their
    first sentences.

    An input of blanks counts as none. The prompts end with a line break, as alpaca-lora's do: after
    Stanford's own, which end with the colon, a response that begins with punctuation would be
    joined to it.
    """
    inputs = [text for role, text in turns if role == "input" and text.strip()]
    preamble = _ALPACA_INPUT_SYSTEM if inputs else _ALPACA_SYSTEM
    section = "".join(f"### Input:\n{text}\n\n" for text in inputs)

    def prompt(question: str, system: str | None) -> str:
        before = preamble if system is None else system
        return f"{before}\n\n### Instruction:\n{question}\n\n{section}### Response:\n"

    return _one_exchange("alpaca", [turn for turn in turns if turn[0] != "input"], prompt, "")


def _llama2(turns: list[Turn]) -> list[Piece]:
    """Follow Llama-2-chat: turns stripped, the system turn in the first user turn, a space around
    answers.

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
        if pieces:
            pieces[-1] = (pieces[-1][0] + "</s>", True)
        pieces.append(("<s>" * bool(pieces) + f"[INST] {(system + text).strip()} [/INST]", False))
        system = ""
    return pieces


def _chatml(turns: list[Turn]) -> list[Piece]:
    """Follow ChatML, where the end of a response, <|im_end|>, is the EOS."""
    pieces: list[Piece] = []
    context = ""
    for role, text in turns:
        if role == "assistant":
            pieces += [(context + "<|im_start|>assistant\n", False), (text, True)]
            context = ""
            continue
        if pieces and not context:
            pieces[-1] = (pieces[-1][0] + "<|im_end|>", True)
            context = "\n"
        context += f"<|im_start|>{role}\n{text}<|im_end|>\n"
    if context:
        pieces.append((context + "<|im_start|>assistant\n", False))
    return pieces


def _smollm2(turns: list[Turn]) -> list[Piece]:
    """Follow the template inside SmolLM2: ChatML, with a system turn of its own where none is
    given."""
    return _chatml(turns if turns[0][0] == "system" else [("system", SMOLLM2_SYSTEM), *turns])


CHATML = {"markers": ("<|im_start|>", "<|im_end|>"), "end": "<|im_end|>", "tools": True}
TEMPLATES: dict[str, Template] = {
    "plain": Template("plain", _plain),
    "alpaca": Template("alpaca", _alpaca, keeps_input=True),
    "llama2": Template("llama2", _llama2, markers=("<s>", "</s>"), end="</s>"),
    "chatml": Template("chatml", _chatml, **CHATML),
    "smollm2": Template("smollm2", _smollm2, **CHATML),
}
