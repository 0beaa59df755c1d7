"""Conversations: what of them is read, what is refused by name, and where the loss falls."""

import pytest
from data.reference import encode_example

from lfl_jax.data import conversations
from lfl_jax.data.examples import Example
from lfl_jax.data.formatting import find_template, token_ids, with_end_token
from lfl_jax.errors import UserError

TURNS = (("user", "Hi"), ("assistant", "Hello."), ("user", "2+2?"), ("assistant", "4"))
CHAT = Example("2+2?", "4", "a.jsonl:1", "c", turns=TURNS)


def message(role, content, **more):
    return {"role": role, "content": content} | more


def test_roles_of_openai_and_sharegpt_are_the_same():
    ours = conversations.turns(
        [message("system", "s"), message("user", "q"), message("assistant", "a")], "x"
    )
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    theirs = conversations.turns([{"from": names[role], "value": text} for role, text in ours], "x")
    assert ours == theirs == [("system", "s"), ("user", "q"), ("assistant", "a")]


def test_what_a_tool_returns_stands_where_the_user_speaks():
    found = conversations.turns(
        [
            message("user", "q"),
            message("assistant", "call"),
            message("tool", "7"),
            message("assistant", "It is 7."),
        ],
        "x",
    )
    assert found[2] == ("tool", "7")
    text = "".join(part for part, _ in find_template("chatml").render_turns(found))
    assert "<|im_start|>tool\n7<|im_end|>\n<|im_start|>assistant\nIt is 7." in text
    with pytest.raises(UserError, match="template 'llama2' has no place for what a tool returns"):
        find_template("llama2").render_turns(found)


def test_parts_of_text_are_joined_and_what_nobody_answered_is_dropped():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    found = conversations.turns(
        [message("user", parts), message("assistant", "a"), message("user", "and?")], "x"
    )
    assert found == [("user", "one two"), ("assistant", "a")]


ASKED = message("user", "q")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "expected a list of messages"),
        ("text", "expected a list of messages"),
        ([ASKED], "without anything that the assistant says"),
        ([message("assistant", "a")], "expected 'user' and 'assistant' in alternation"),
        ([ASKED, ASKED, message("assistant", "a")], "in alternation"),
        ([ASKED, message("narrator", "a")], "message 2: unknown role 'narrator'"),
        ([ASKED, {"text": "a"}], "message 2: expected role and content, or from and value"),
        ([ASKED, message("assistant", None)], "message 2: expected text, found None"),
        (
            [ASKED, message("assistant", "", tool_calls=[{"id": 1}])],
            "calls of tools have no one form in text",
        ),
        ([ASKED, message("assistant", "a", weight=0)], "not to be learned are not told apart"),
        ([message("user", [{"type": "image_url"}]), message("assistant", "a")], "expected text"),
    ],
)
def test_what_no_turn_can_hold_is_refused_with_its_place(messages, words):
    with pytest.raises(UserError, match=rf"^a.jsonl:7.*{words}"):
        conversations.turns(messages, "a.jsonl:7")


def test_extra_keys_of_messages_are_named():
    messages = [message("user", "q", name="Ann", thinking=None), message("assistant", "a")]
    assert conversations.extra_keys(messages) == ["messages[].name"]


def spoken(ids, loss, tokenizer):
    """Runs of tokens that carry loss, as text."""
    runs, before = [], False
    for i, carries in zip(ids, loss, strict=True):
        if carries:
            runs = [*runs[:-1], [*runs[-1], i]] if before else [*runs, [i]]
        before = carries
    return ["".join(tokenizer.pieces(run)) for run in runs]


def test_every_answer_carries_loss_or_the_last_alone(tokenizer):
    template = find_template("chatml")
    ids, loss = token_ids(CHAT, template, tokenizer)
    assert spoken(ids, loss, tokenizer) == ["Hello.<|im_end|>", "4<|eos|>"]
    same, last = token_ids(CHAT, template, tokenizer, "last")
    assert same == ids
    assert spoken(ids, last, tokenizer) == ["4<|eos|>"]


def arrays(tokenizer, seq_len, too_long):
    options = {"template": "chatml", "seq_len": seq_len, "too_long": too_long}
    return encode_example(CHAT, 0, tokenizer, **options)


def test_a_long_conversation_is_cut_skipped_or_refused_as_too_long_says(tokenizer):
    whole = arrays(tokenizer, 999, "error")
    size, weights = len(whole["tokens"]), whole["weights"]
    cut = arrays(tokenizer, size - 4, "truncate")
    assert cut["weights"].tolist() == weights[: size - 4].tolist()
    assert cut["weights"].sum() == len("Hello.<|im_end|>"), "the first answer is still learned"
    assert arrays(tokenizer, size - 4, "skip") is None
    assert arrays(tokenizer, 30, "truncate") is None, "no answer begins within 30 bytes"
    with pytest.raises(UserError, match=r"example a.jsonl:1 has \d+ tokens"):
        arrays(tokenizer, size - 4, "error")


def test_a_template_of_one_exchange_names_the_example_it_cannot_hold(tokenizer):
    with pytest.raises(
        UserError, match=r"example a.jsonl:1: template 'plain' holds one question and one answer"
    ):
        token_ids(CHAT, find_template("plain"), tokenizer)


def test_the_end_token_ends_what_is_learned_and_must_be_one_token(tokenizer):
    ended = with_end_token(tokenizer, "<|bos|>")
    assert (ended.eos, ended.eos_id) == ("<|bos|>", tokenizer.bos_id)
    ids, loss = token_ids(CHAT, find_template("chatml"), ended)
    assert (ids[-1], loss[-1]) == (tokenizer.bos_id, True)
    with pytest.raises(
        UserError,
        match=r"config.data.end_token='<\|im_end\|>' is 10 tokens of this tokenizer, not one",
    ):
        with_end_token(tokenizer, "<|im_end|>")
    assert with_end_token(tokenizer, "") is tokenizer
