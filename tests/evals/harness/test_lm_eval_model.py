"""The methods that the harness calls: encoding, scoring, generating, chat templates."""

import dataclasses
import json
import math

import pytest
from evals.harness.shared import SETTINGS

from lfl_jax.errors import UserError
from lfl_jax.evals.harness.bridge import harness
from lfl_jax.evals.harness.decoding import Decoding
from lfl_jax.evals.harness.grouping import group_by_context
from lfl_jax.evals.requests import Request
from lfl_jax.evals.task import Scorer
from lfl_jax.text.chat import TEMPLATES
from lfl_jax.text.tokenizers import byte_tokenizer


class Asked:
    """One of the harness's requests, as far as we look at it."""

    def __init__(self, *args):
        self.args = args


def model_of(model, tokenizer, **changes):
    scorer = dataclasses.replace(model, tokenizer=tokenizer)
    return harness(scorer, dataclasses.replace(SETTINGS, **changes))


CONTEXTS = (
    "a b c d e f g h",
    "a b c d e f g i",
    "a b c",
    "",
    "<bos> b c",
    "x y ",
    "one:",
    "a b c d e f g h i j k l m n",
)


@pytest.mark.parametrize("length", [5, 9, 64])
def test_scores_and_left_truncation_are_those_of_hflm(toy, toy_model, tokenizer, length):
    """HFLM reads (context + continuation)[-(max_length + 1):][:-1], alone; the toy's scores are
    exact."""
    pairs = [(context, ending) for context in CONTEXTS for ending in (" y", " z w", " <bos> q r")]
    lm = model_of(toy_model, tokenizer, length=length)
    wanted, cut = [], 0
    for context, ending in pairs:
        if context:
            moved = context[len(context.rstrip()) :] + ending
            ids, rest = toy.encode(context.rstrip()), toy.encode(context.rstrip() + moved)
            rest = rest[len(ids) :]
        else:
            ids, rest = [toy.BOS], toy.encode(ending)
        kept = (ids + rest)[-(length + 1) :]
        cut += len(kept) < len(ids + rest)
        wanted.append(toy.score(kept[: len(kept) - len(rest)], rest))
    assert lm.loglikelihood([Asked(*pair) for pair in pairs]) == wanted
    assert lm.truncated == cut and (cut > 0) == (length < 64)


def test_a_long_continuation_is_refused(toy_model, tokenizer):
    with pytest.raises(
        UserError, match="a continuation of 9 tokens does not fit in scoring rows of 8"
    ):
        model_of(toy_model, tokenizer, length=8).loglikelihood([Asked("a", " b" * 9)])


def test_texts_are_scored_in_windows(toy, toy_model, tokenizer):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    texts = ["", "one", "a b c d e f g h i j k l m n o p q"]
    wanted = []
    for text in texts:
        windows = get_rolling_token_windows(toy.encode(text), toy.BOS, 7, 1)
        scores = [toy.score(*window)[0] for window in map(make_disjoint_window, windows)]
        wanted.append(math.fsum(scores))
    assert (
        model_of(toy_model, tokenizer, length=7).loglikelihood_rolling(
            [Asked(text) for text in texts]
        )
        == wanted
    )


def test_what_requests_share_is_computed_once():
    """Choices of a question, and questions after the same examples, as many as fit in a row."""
    shots, first, second = tuple(range(40)), (50, 51, 52), (60, 61)
    asked = [Request(shots + q, (choice,)) for q in (first, second) for choice in (1, 2, 3)]
    asked += [Request((70, 71), (4, 5)), Request((72,), (1,))]
    for length, sizes in (
        (1000, [6, 1, 1]),
        (60, [6, 1, 1]),
        (50, [3, 3, 1, 1]),
        (44, [2, 1, 3, 1, 1]),
    ):
        groups = group_by_context(asked, length)
        assert [len(group) for group in groups] == sizes
        assert [request for group in groups for request in group] == asked
    assert group_by_context([], 9) == []


def test_token_ids_are_those_of_hflm(toy_model, tokenizer):
    """BOS by the tokenizer's own rule, never twice, and by flag."""
    ids = byte_tokenizer()
    lm = model_of(toy_model, ids)
    assert (
        lm.tok_encode("ab")
        == [257, 97, 98]
        == lm.tok_encode("<|bos|>ab")
        == lm.tok_encode("ab", True)
    )
    assert lm.tok_encode("ab", add_special_tokens=False) == [97, 98]
    assert lm.tok_encode("<|bos|>a", add_special_tokens=True) == [257, 257, 97]
    assert (lm.eot_token_id, lm.prefix_token_id, lm.max_length, lm.max_gen_toks) == (
        258,
        257,
        512,
        12,
    )
    assert model_of(toy_model, tokenizer).tok_encode("<bos>", add_special_tokens=True) == [1], (
        "adds none"
    )
    headless = dataclasses.replace(ids, bos_id=None, bos=None, add_bos=False)
    assert model_of(toy_model, headless).prefix_token_id == 258
    assert lm.tokenizer_name != model_of(toy_model, headless).tokenizer_name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, Decoding(256, ("<eos>",))),
        ({"until": "\n"}, Decoding(256, ("\n", "<eos>"))),
        ({"until": ["a", "", "<eos>"], "max_gen_toks": 3}, Decoding(3, ("a", "<eos>"))),
        (
            {"max_new_tokens": 5, "do_sample": False, "temperature": 0.7, "top_p": 0.5},
            Decoding(5, ("<eos>",)),
        ),
        ({"top_k": 40, "num_beams": 1, "repetition_penalty": 1.0}, Decoding(256, ("<eos>",))),
        ({"temperature": 0.5}, Decoding(256, ("<eos>",), 0.5, 1.0)),
        (
            {"do_sample": True, "temperature": 2, "top_p": 0.9, "top_k": 0},
            Decoding(256, ("<eos>",), 2.0, 0.9),
        ),
    ],
)
def test_generation_settings(given, wanted):
    before = json.dumps(given)
    assert Decoding.from_kwargs(given, 256, "<eos>") == wanted
    assert json.dumps(given) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"temperature": 0.5, "top_k": 40, "min_p": 0.1},
            "min_p=0.1, top_k=40: not supported; there are until",
        ),
        ({"num_beams": 4}, "num_beams=4"),
        ({"logit_bias": {"5": 1}}, "logit_bias={'5': 1}"),
        ({"do_sample": True}, "do_sample=True needs a temperature above 0"),
    ],
)
def test_settings_that_would_change_the_text_are_refused(given, words):
    with pytest.raises(UserError) as error:
        Decoding.from_kwargs(given, 256, "<eos>")
    assert words in str(error.value)


def test_prompts_are_batched_by_settings_and_cut_on_the_left(tokenizer):
    calls = []

    def generate(prompts, *, max_new_tokens, stop, example_ids, **sampling):
        calls.append((prompts, max_new_tokens, stop, example_ids, sampling))
        return [f"{len(prompt)} said stop and <eos> more" for prompt in prompts]

    lm = model_of(
        Scorer("fake", tokenizer, lambda rows: None, generate),
        tokenizer,
        window=12,
        generate_rows=2,
    )
    greedy, other = {"until": ["stop"], "max_gen_toks": 4}, {"until": [], "max_gen_toks": 2}
    sampled = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_gen_toks": 4}
    asked = [
        ("a b c", greedy),
        ("a " * 20, greedy),
        ("d", other),
        ("a", sampled),
        ("a", sampled),
        ("e f", greedy),
    ]
    texts = lm.generate_until([Asked(*each) for each in asked])
    assert texts == [
        "3 said ",
        "8 said ",
        "1 said stop and ",
        "1 said stop and ",
        "1 said stop and ",
        "2 said ",
    ]
    assert [len(prompts) for prompts, *_ in calls] == [2, 1, 1, 2]
    assert calls[0][:3] == (
        [tokenizer.encode("a " * 20)[-8:], tokenizer.encode("a b c")],
        4,
        ("stop", "<eos>"),
    )
    assert calls[2][1:3] == (2, ("<eos>",))
    assert [sampling for *_, sampling in calls] == [{}, {}, {}, {"temperature": 0.5, "top_p": 0.9}]
    assert len(set(calls[3][3])) == 2, "repeats draw anew"
    assert lm.truncated == 1
    with pytest.raises(UserError, match="max_gen_toks=12 leaves no room in a context of 12"):
        lm.generate_until([Asked("a", {"max_gen_toks": 12})])


TALK = [
    {"role": "user", "content": "Hi, Zoë"},
    {"role": "assistant", "content": "Hello! "},
    {"role": "user", "content": "<b>?"},
]
CHATML = (
    "{% for m in messages %}\n    {% if m.role == 'system' and strict %}{{ raise_exception('no')"
    " }}{% endif %}\n"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_chat_templates(toy_model, tokenizer):
    lm = model_of(toy_model, dataclasses.replace(tokenizer, chat_template=CHATML))
    turns = [(m["role"], m["content"]) for m in TALK]
    assert lm.apply_chat_template(TALK) == "".join(
        text for text, _ in TEMPLATES["chatml"].render_turns(turns)
    )
    continued = lm.apply_chat_template(TALK[:2], add_generation_prompt=False)
    assert continued == "<|im_start|>user\nHi, Zoë<|im_end|>\n<|im_start|>assistant\nHello! "
    trimmed = dataclasses.replace(
        tokenizer, chat_template=CHATML.replace("m['content']", "m['content'] | trim")
    )
    assert model_of(toy_model, trimmed).apply_chat_template(TALK[:2], False) == continued.rstrip()
    strict = dataclasses.replace(tokenizer, chat_template="{% set strict = true %}" + CHATML)
    told = model_of(toy_model, strict).apply_chat_template(
        [{"role": "system", "content": "x"}, *TALK]
    )
    assert told == lm.apply_chat_template(TALK)
    assert lm.chat_template(True) == CHATML and lm.chat_template(False) is None
    with pytest.raises(UserError, match="carries no chat template"):
        model_of(toy_model, tokenizer).chat_template(True)
    with pytest.raises(UserError, match="this tokenizer has one template; give True"):
        lm.chat_template("rag")
