"""A tokenizer's own chat template: the text transformers makes of it, and which of it carries
loss."""

import dataclasses
import sys

import pytest

from lfl_jax.errors import UserError
from lfl_jax.text import jinja
from lfl_jax.text.chat import TEMPLATES
from lfl_jax.text.tokenizer_template import from_tokenizer
from lfl_jax.text.tokenizers import byte_tokenizer

pytest.importorskip("jinja2", reason="chat templates need jinja2 (extra chat)")

TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "2 + 2?"), ("assistant", "4")]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' +"
    " '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{%"
    " endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As Qwen3's: what an answer thought is taken out once another question follows.
FORGETS = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}{{"
    " m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def tokenizer(template, eos="<|im_end|>"):
    return dataclasses.replace(byte_tokenizer(), chat_template=template, eos=eos)


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "marks"])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_chatml_template_is_ours(template, n):
    own, ours = from_tokenizer(tokenizer(template)), TEMPLATES["chatml"]
    merged = [piece for piece in own.render_turns(TURNS[:n]) if piece[0]]
    assert merged == ours.render_turns(TURNS[:n])
    assert own.render("Q?", "A.") == ours.render("Q?", "A.")
    assert own.render("Q?", "")[0] == ours.render("Q?", "A.")[0]


def test_a_llama2_template_is_ours_but_for_its_bos():
    eos, bos = "</s>", byte_tokenizer().bos
    own = from_tokenizer(tokenizer(LLAMA2, eos)).render_turns(TURNS)
    ours = TEMPLATES["llama2"].render_turns(TURNS)
    assert "".join(text for text, _ in own) == bos + "".join(t for t, _ in ours).replace("<s>", bos)
    assert [text.strip() for text, loss in own if loss] == ["Hello. </s>", "4"]


def test_an_end_that_is_not_the_eos_stays_and_the_eos_follows_it():
    (_, _), (response, _) = from_tokenizer(tokenizer(CHATML, "<|endoftext|>")).render_turns(
        TURNS[:2]
    )
    assert response == "Hello.<|im_end|>"


def test_a_template_that_writes_earlier_turns_otherwise_is_refused_with_both_texts():
    template = from_tokenizer(tokenizer(FORGETS))
    assert template.render("Q?", "A.") == ("<user>Q?<assistant>", "<think></think>A.")
    with pytest.raises(
        UserError,
        match=r"writes earlier turns otherwise .*<think>.* against .*Hello.*\{% generation %\}",
    ):
        template.render_turns(TURNS)


def test_the_template_itself_refuses_in_its_own_words():
    with pytest.raises(UserError, match="chat template: Conversation roles must alternate"):
        from_tokenizer(tokenizer(LLAMA2)).render_turns([("system", "s"), *TURNS])
    with pytest.raises(UserError, match="chat template: Expected an expression"):
        from_tokenizer(tokenizer("{% for %}")).render_turns(TURNS)


def test_marks_around_nothing_of_a_conversation_are_refused():
    marks = "{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    silent = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + marks
    with pytest.raises(UserError, match="nothing of this conversation in it"):
        from_tokenizer(tokenizer(silent)).render_turns(TURNS)


def test_a_tokenizer_without_a_template():
    with pytest.raises(UserError, match="this tokenizer carries no chat template"):
        from_tokenizer(byte_tokenizer())


class TestRender:
    """What lm-evaluation-harness's tasks are prompted with."""

    def test_templates_with_generation_blocks_compile(self):
        messages = [{"role": role, "content": text} for role, text in TURNS]
        text = jinja.render(MARKED, messages[:1], True, tokenizer(MARKED))
        assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert jinja.render(MARKED, messages[:2], False, tokenizer(MARKED)).endswith(
            "assistant\nHello."
        )

    def test_a_refused_system_message_is_left_out_and_other_refusals_are_said(self):
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Q?"}]
        assert jinja.render(LLAMA2, messages, True, tokenizer(LLAMA2)).endswith("[INST] Q? [/INST]")
        with pytest.raises(UserError, match="roles must alternate"):
            jinja.render(LLAMA2, [{"role": "assistant", "content": "A."}], True, tokenizer(LLAMA2))


@pytest.mark.peers
@pytest.mark.parametrize("template", [MARKED, LLAMA2, CHATML], ids=["marks", "llama2", "chatml"])
def test_text_and_spans_are_those_of_transformers(template):
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": role, "content": text} for role, text in TURNS]
    own = tokenizer(template)
    options = {"bos_token": own.bos, "eos_token": own.eos}
    (text,), spans = theirs.render_jinja_template(
        [messages], None, None, template, template is MARKED, **options
    )
    pieces = from_tokenizer(own).render_turns(TURNS)
    assert text.rstrip().removesuffix(own.eos) == "".join(part for part, _ in pieces)
    if template is MARKED:
        spoken = [part.removesuffix(own.eos) for part, loss in pieces if loss]
        assert [text[a:b].removesuffix(own.eos) for a, b in spans[0]] == spoken == ["Hello.", "4"]


def test_without_jinja2_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"needs jinja2: pip install 'lfl_jax\[chat\]'"):
        jinja.complete_text("", [], True, byte_tokenizer())
