"""Prompt formats: as their sources define them, and stable where the prompt ends and the response
begins."""

from pathlib import Path

import pytest

from lfl_jax import assets
from lfl_jax.errors import UserError
from lfl_jax.text import tokenizers
from lfl_jax.text.chat import TEMPLATES

Q, A = "Ann has 3 apples and buys 12 more. How many?", "3 + 12 = 15\n#### 15"
CONVERSATION = [("user", "Hi"), ("assistant", "Hello."), ("user", "2 + 2?"), ("assistant", "4")]


@pytest.fixture(scope="module", params=["smollm2", "llama", "bytes"])
def tokenizer(request):
    if request.param == "bytes":
        return tokenizers.byte_tokenizer()
    if request.param == "llama":
        return tokenizers.from_sentencepiece(
            Path(__file__).parents[1] / "fixtures/tiny_llama/tokenizer.model"
        )
    return smollm2()


def smollm2():
    if not assets.is_cached("smollm2-135m"):
        pytest.skip("smollm2-135m is not fetched: run `python -m lfl_jax.fetch smollm2-135m`")
    return tokenizers.from_gguf(assets.path("smollm2-135m", "model.gguf"))


def test_plain_is_lm_evals_gsm8k():
    assert TEMPLATES["plain"].render("Q?", "A.") == ("Question: Q?\nAnswer:", " A.")


def test_bare_adds_nothing_but_a_space():
    assert TEMPLATES["bare"].render("Q?", "A.") == ("Q?", " A.")
    assert TEMPLATES["bare"].render_turns([("system", "S"), ("user", "Q?")]) == [("S Q?", False)]


def test_alpaca():
    prompt, response = TEMPLATES["alpaca"].render("Q?", "A.")
    assert prompt.startswith("Below is an instruction that describes a task. Write a response that")
    assert prompt.endswith("\n\n### Instruction:\nQ?\n\n### Response:\n")
    assert response == "A."


# Stanford's second prompt, but for the line break at its end (see `_alpaca`).
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context. Write a"
    " response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n###"
    " Input:\n2, 3"
    "\n\n### Response:\n"
)


def test_alpaca_with_input_is_stanfords_second_prompt_and_blanks_are_no_input():
    turns = [("user", "Add."), ("input", "2, 3"), ("assistant", "5")]
    assert TEMPLATES["alpaca"].prompt_and_response(turns) == (ALPACA_WITH_INPUT, "5")
    blank = [("user", "Add."), ("input", " \n"), ("assistant", "5")]
    assert TEMPLATES["alpaca"].prompt_and_response(blank) == TEMPLATES["alpaca"].render("Add.", "5")


@pytest.mark.parametrize("name", ["plain", "llama2", "chatml", "smollm2"])
def test_other_formats_put_an_input_after_the_question(name):
    turns = [("user", "Add."), ("input", "2, 3"), ("assistant", "5")]
    assert TEMPLATES[name].prompt_and_response(turns) == TEMPLATES[name].render("Add.\n2, 3", "5")


def test_llama2():
    assert TEMPLATES["llama2"].render(" Q? ", "A.\n") == ("[INST] Q? [/INST]", " A. ")


def test_llama2_conversation():
    pieces = TEMPLATES["llama2"].render_turns([("system", "Be brief."), *CONVERSATION])
    system = "<<SYS>>\nBe brief.\n<</SYS>>\n\n"
    assert "".join(text for text, _ in pieces) == (
        f"[INST] {system}Hi [/INST] Hello. </s><s>[INST] 2 + 2? [/INST] 4 "
    )


# What transformers 5.23 makes of CONVERSATION with the Jinja templates of Llama-2-7b-chat-hf and of
# ChatML.
SYSTEM = [("system", "Be brief.\n")]
LLAMA2 = "<s>[INST] Hi [/INST] Hello. </s><s>[INST] 2 + 2? [/INST] 4 </s>"
LLAMA2_SYSTEM = "<s>[INST] <<SYS>>\nBe brief.\n\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] 2 + 2? [/INST] 4 </s>"
CHATML = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
)
CHATML_SYSTEM = "<|im_start|>system\nBe brief.\n<|im_end|>\n" + CHATML


@pytest.mark.parametrize(
    ("name", "turns", "whole", "before", "after"),
    [
        ("llama2", CONVERSATION, LLAMA2, "<s>", "</s>"),
        ("llama2", SYSTEM + CONVERSATION, LLAMA2_SYSTEM, "<s>", "</s>"),
        ("chatml", CONVERSATION, CHATML, "", "<|im_end|>\n"),
        ("chatml", SYSTEM + CONVERSATION, CHATML_SYSTEM, "", "<|im_end|>\n"),
    ],
)
def test_conversations_are_what_transformers_makes_of_them(name, turns, whole, before, after):
    """BOS and EOS of the whole are the tokenizer's; the loss is on every assistant turn and the
    mark that ends it."""
    pieces = TEMPLATES[name].render_turns(turns)
    assert before + "".join(text for text, _ in pieces) + after == whole
    spoken = [text for text, loss in pieces if loss]
    assert spoken == {"llama2": [" Hello. </s>", " 4 "], "chatml": ["Hello.<|im_end|>", "4"]}[name]
    assert TEMPLATES[name].render_turns(turns[:-1]) == pieces[:-1], (
        "a question to answer is the start of the whole"
    )


def test_chatml():
    prompt, response = TEMPLATES["chatml"].render("Q?", "A.")
    assert prompt == "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
    assert response == "A."


def test_only_what_the_assistant_says_carries_loss():
    for name in ("chatml", "smollm2", "llama2"):
        pieces = TEMPLATES[name].render_turns(CONVERSATION)
        assert [loss for _, loss in pieces] == [False, True, False, True]
        spoken = [text.split("<")[0].strip() for text, loss in pieces if loss]
        assert spoken == ["Hello.", "4"]
        silent = "".join(text for text, loss in pieces if not loss)
        assert "Hello." not in silent
        assert "2 + 2?" in silent


def test_the_end_of_a_turn_carries_loss():
    assert TEMPLATES["chatml"].render_turns(CONVERSATION)[1] == ("Hello.<|im_end|>", True)
    assert TEMPLATES["llama2"].render_turns(CONVERSATION)[1] == (" Hello. </s>", True)


def test_one_turn_of_a_conversation_is_render():
    for template in TEMPLATES.values():
        pieces = template.render_turns([("user", Q), ("assistant", A)])
        assert tuple(text for text, _ in pieces) == template.render(Q, A)


def test_a_last_question_ends_where_the_answer_begins():
    for template in TEMPLATES.values():
        assert template.render_turns([("user", Q)]) == [(template.render(Q, A)[0], False)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_system_turn_is_used(name):
    text = TEMPLATES[name].render_turns([("system", "Be brief."), ("user", Q)])[0][0]
    assert text.count("Be brief.") == 1
    assert "SmolLM, trained" not in text
    assert "Below is an instruction" not in text


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "roles",
    [[], ["system"], ["assistant"], ["user", "user"], ["user", "system"], ["user", "tool"]],
    ids=str,
)
def test_turns_out_of_order_are_refused(name, roles):
    with pytest.raises(UserError, match="expected 'user' and 'assistant' in alternation"):
        TEMPLATES[name].render_turns([(role, "text") for role in roles])


@pytest.mark.parametrize("name", ["plain", "alpaca"])
def test_one_exchange_formats_refuse_more(name):
    with pytest.raises(UserError, match="one question and one answer, not 4 turns"):
        TEMPLATES[name].render_turns(CONVERSATION)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "answer",
    [A, "The answer is 15.", "$15", "(3, 12)", "```python\nx\n```", "-1", "\u4e00", "it's"],
)
def test_boundary_is_where_the_whole_text_is_cut(name, answer, tokenizer):
    prompt, response = TEMPLATES[name].render(Q, answer)
    parts = tokenizer.encode(prompt) + tokenizer.encode_continuation(response)
    assert parts == tokenizer.encode(prompt + response)


@pytest.mark.parametrize("name", ["plain", "llama2"])
@pytest.mark.parametrize("answer", [" indented", "\nnext line", "\n\n  both"])
def test_boundary_holds_for_white_space_after_a_space(name, answer, tokenizer):
    prompt, response = TEMPLATES[name].render(Q, answer)
    parts = tokenizer.encode(prompt) + tokenizer.encode_continuation(response)
    assert parts == tokenizer.encode(prompt + response)


@pytest.fixture(scope="module")
def jinja():
    jinja2 = pytest.importorskip(
        "jinja2", reason="rendering the model's own chat template needs jinja2"
    )
    template = jinja2.Environment(autoescape=False).from_string(smollm2().chat_template)

    def render(turns, prompt=False):
        messages = [{"role": role, "content": text} for role, text in turns]
        return template.render(messages=messages, add_generation_prompt=prompt)

    return render


class TestChatTemplateInTheModel:
    """Our ChatML against the Jinja template that SmolLM2 carries."""

    @pytest.mark.parametrize("system", [[], [("system", "Be brief.")]], ids=["default", "own"])
    @pytest.mark.parametrize("n", [1, 2, 3, 4])
    def test_smollm2_is_the_template(self, jinja, system, n):
        turns = system + CONVERSATION[:n]
        ours = "".join(text for text, _ in TEMPLATES["smollm2"].render_turns(turns))
        if n % 2:
            assert ours == jinja(turns, prompt=True)
        else:
            assert ours + "<|im_end|>\n" == jinja(turns)

    def test_chatml_differs_by_the_default_system_turn_only(self, jinja):
        chatml = "".join(text for text, _ in TEMPLATES["chatml"].render_turns(CONVERSATION[:1]))
        whole = jinja(CONVERSATION[:1], prompt=True)
        assert whole.endswith(chatml)
        assert whole.removesuffix(chatml).startswith(
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM"
        )

    def test_response_ends_with_the_models_eos(self):
        assert smollm2().eos == "<|im_end|>"
