"""Prompt formats: how a question, or a conversation, becomes the text a model is trained on.

An example's ids are `encode(prompt) + encode_continuation(response) + [eos]`, so a prompt has the same ids in
training and at evaluation, whatever follows it. Every format also puts the boundary where byte-level BPE and
SentencePiece cut anyway, so that these are the ids of the whole text, provided that the answer does not begin
with white space (in `plain` and `llama2` it may).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lfl_jax.errors import UserError

Turn = tuple[str, str]  # role ("system", "user" or "assistant") and text
Piece = tuple[str, bool]  # text, and whether it carries loss

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Template:
    """A prompt format; `pieces` writes checked turns as alternating text without and with loss."""

    name: str
    pieces: Callable[[list[Turn]], list[Piece]]

    def render(self, question: str, answer: str) -> tuple[str, str]:
        """Write one question and its answer: prompt, and response without the EOS that the caller appends."""
        (prompt, _), (response, _) = self.render_turns([("user", question), ("assistant", answer)])
        return prompt, response

    def render_turns(self, turns: Sequence[Turn]) -> list[Piece]:
        """Write a conversation as text pieces in order, each with a flag: does it carry loss?

        Only what the assistant says does, and the marker that ends its turn. After a last user turn comes
        what begins an answer, ready for generation. The EOS of a last assistant turn is left to the caller, as
        in `render`. Raises UserError unless the turns are an optional system turn, then user and assistant in
        alternation, and if a format for one exchange is given more.
        """
        _check_order(self.name, turns)
        return self.pieces(list(turns))


def _check_order(name: str, turns: Sequence[Turn]) -> None:
    roles = [role for role, _ in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2):
        raise UserError(
            f"template {name!r}: turns {roles}; expected 'user' and 'assistant' in alternation, after at most"
            " one 'system'"
        )


def _split_system(turns: list[Turn]) -> tuple[str | None, list[Turn]]:
    return (turns[0][1], turns[1:]) if turns[0][0] == "system" else (None, turns)


def _one_exchange(name: str, turns: list[Turn], prompt: Callable[[str, str | None], str], before: str) -> list[Piece]:
    system, turns = _split_system(turns)
    if len(turns) > 2:
        raise UserError(f"template {name!r} holds one question and one answer, not {len(turns)} turns; use 'chatml'")
    return [(prompt(turns[0][1], system), False), *((before + answer, True) for _, answer in turns[1:])]


def _plain(turns: list[Turn]) -> list[Piece]:
    """Follow lm-evaluation-harness's GSM8K task: "Question: ...\\nAnswer:" and a response after one space."""

    def prompt(question: str, system: str | None) -> str:
        return ("" if system is None else f"{system}\n\n") + f"Question: {question}\nAnswer:"

    return _one_exchange("plain", turns, prompt, " ")


def _alpaca(turns: list[Turn]) -> list[Piece]:
    """Follow Stanford Alpaca without input; a system turn replaces its first two sentences.

    The prompt ends with a line break, as alpaca-lora's does: after Stanford's own, which ends with the colon,
    a response that begins with punctuation would be joined to it.
    """

    def prompt(question: str, system: str | None) -> str:
        preamble = _ALPACA_SYSTEM if system is None else system
        return f"{preamble}\n\n### Instruction:\n{question}\n\n### Response:\n"

    return _one_exchange("alpaca", turns, prompt, "")


def _llama2(turns: list[Turn]) -> list[Piece]:
    """Follow Llama-2-chat: turns stripped, the system turn in the first user turn, a space around answers.

    The first BOS is left to the caller (the tokenizer's `add_bos`); each later exchange begins with its own.
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
    """Follow the template inside SmolLM2: ChatML, with a system turn of its own where none is given."""
    return _chatml(turns if turns[0][0] == "system" else [("system", SMOLLM2_SYSTEM), *turns])


TEMPLATES: dict[str, Template] = {
    "plain": Template("plain", _plain),
    "alpaca": Template("alpaca", _alpaca),
    "llama2": Template("llama2", _llama2),
    "chatml": Template("chatml", _chatml),
    "smollm2": Template("smollm2", _smollm2),
}
