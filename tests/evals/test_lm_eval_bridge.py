"""Our models under lm-evaluation-harness: the numbers of a plain computation, of our own
evaluations, of its HFLM."""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import adapter_for
from lfl_jax.configs import math_ift

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.errors import UserError
from lfl_jax.evals import records, run, scorer
from lfl_jax.evals.harness import bridge, documents
from lfl_jax.evals.harness.answers import Answers
from lfl_jax.evals.harness.bridge import harness
from lfl_jax.evals.harness.decoding import Decoding
from lfl_jax.evals.harness.grouping import group_by_context
from lfl_jax.evals.requests import Request
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Inputs, Scorer
from lfl_jax.evals.tasks import TASKS
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.run_setup import base_model
from lfl_jax.text.chat import TEMPLATES
from lfl_jax.text.tokenizers import byte_tokenizer

SETTINGS = Settings(rows=2, length=512, generate_rows=4, max_new_tokens=12, window=512)
COMMITTED = Path(__file__).parents[1] / "parity" / "lm_eval_bridge" / "smollm2.json"
PARITY = Path(os.environ.get("LM_EVAL_FIXTURE", COMMITTED))
ZERO_SHOT = {"hellaswag": "hellaswag", "arc_challenge": "arc-challenge", "winogrande": "winogrande"}


@pytest.fixture(autouse=True)
def installed(request):
    """The harness, which the extra `eval` brings."""
    if "missing" not in request.node.name:
        pytest.importorskip(
            "lm_eval", reason="lm-eval is not installed: pip install 'lfl_jax[eval]'"
        )


@pytest.fixture(scope="module")
def tiny():
    """A random model that reads bytes, under an adapter that changes what it says."""
    base = base_model.load(Config.from_dict(math_ift.get_config("smoke")), make_rules())
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, base.model.params)
    model = Model(params=params, adapter=adapter_for(base.cfg, params))
    return (
        model,
        base.cfg,
        scorer.build(model, base.cfg, byte_tokenizer(), make_rules(), "tiny", generate_rows=4),
    )


def samples(folder, task):
    """By document and filter."""
    lines = (folder / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return {(s["doc_id"], s["filter"]): s for s in map(json.loads, lines)}


def quiet(table):
    assert table.startswith("|")


# The numbers


SUITE = {
    "pets": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}} =",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["a", "\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DOCS = {
    "pets": [
        {"q": "What barks?", "choices": ["a dog", "a cat", "an old teapot"], "gold": 0},
        {"q": "What purrs?", "choices": ["a dog", "a cat", "rain"], "gold": 1},
        {"q": "Zoë's pet?", "choices": ["ñandú", "cow", "none"], "gold": 2},
    ],
    "sums": [{"q": "1 + 1", "a": "2"}, {"q": "20 + 22", "a": "42"}, {"q": "3", "a": "3"}],
}


@pytest.fixture
def suite(tmp_path):
    """Two tasks of our own, with their documents beside them."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name, task in SUITE.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(doc) + "\n" for doc in DOCS[name]))
        files = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "datasets")}
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": files,
            "test_split": "test",
        } | task
        (folder / f"{name}.yaml").write_text(json.dumps(whole))
    return folder


def plain(model, cfg):
    """Log-probabilities of all next tokens after at most 128 tokens, by the model alone: no plan,
    cache or harness."""
    forward = jax.jit(
        lambda tokens: llama.logits(
            model.params, llama.forward(model.params, model.adapter, tokens, cfg)[0]
        )
    )

    def logprobs(ids):
        padded = jnp.zeros((1, 128), jnp.int32).at[0, : len(ids)].set(jnp.array(ids))
        return np.asarray(jax.nn.log_softmax(forward(padded)[0]), np.float64)[: len(ids)]

    return logprobs


def test_a_suite_of_ones_own_is_scored_as_a_plain_computation_does(tmp_path, tiny, suite):
    model, cfg, judged = tiny
    encode = lambda text: [257, *text.encode()]  # noqa: E731
    found = bridge.run(
        judged,
        list(SUITE),
        SETTINGS,
        out=tmp_path,
        include=str(suite),
        report=quiet,
    )
    logprobs, bare = plain(model, cfg), plain(model.replace(adapter={}), cfg)
    hits = []
    for i, doc in enumerate(DOCS["pets"]):
        ll, without = [], []
        for choice in doc["choices"]:
            before, ids = encode(f"{doc['q']}\nAnswer:"), encode(f"{doc['q']}\nAnswer: {choice}")
            places = range(len(before), len(ids))
            ll.append(sum(logprobs(ids)[p - 1, ids[p]] for p in places))
            without.append(sum(bare(ids)[p - 1, ids[p]] for p in places))
        made = [float(r[0][0]) for r in samples(tmp_path, "pets")[i, "none"]["resps"]]
        np.testing.assert_allclose(made, ll, rtol=0, atol=1e-4)
        assert np.abs(np.subtract(made, without)).max() > 1e-2, "the adapter takes part"
        lengths = [len(choice) for choice in doc["choices"]]
        hits.append(
            (np.argmax(ll) == doc["gold"], np.argmax(np.divide(ll, lengths)) == doc["gold"])
        )
    assert [found["pets"][k] for k in ("acc,none", "acc_norm,none")] == pytest.approx(
        np.mean(hits, axis=0)
    )
    for i, doc in enumerate(DOCS["sums"]):
        ids = encode(f"{doc['q']} =")
        for _ in range(8):
            ids.append(int(np.argmax(logprobs(ids)[-1])))
        text = byte_tokenizer().decode(ids[len(encode(f"{doc['q']} =")) :])
        assert samples(tmp_path, "sums")[i, "none"]["resps"] == [
            [text.split("a")[0].split("\n")[0]]
        ]


def agree(tmp_path, judged, inputs, shots):
    """Example by example: our evaluators and the harness, on the same documents."""
    names = [*ZERO_SHOT, "gsm8k"]
    docs = lambda item: inputs.docs(item)  # noqa: E731
    ours = dataclasses.replace(inputs, shots=shots, shots_from="lm_eval")
    for name in names:
        run.Evaluation(TASKS[name], judged, ours, SETTINGS).run(tmp_path / "ours")
    options = {
        "docs": docs,
        "report": quiet,
        "gen_kwargs": {"max_gen_toks": SETTINGS.max_new_tokens},
    }
    found = {}
    for few, tasks in ({0: names} if shots == 0 else {0: [*ZERO_SHOT], shots: ["gsm8k"]}).items():
        out = tmp_path / "theirs"
        found |= bridge.run(judged, tasks, SETTINGS, out=out, num_fewshot=few, **options)
    for name in names:
        _, made = records.read(tmp_path / "ours" / f"{name}.jsonl")
        theirs = samples(tmp_path / "theirs", name)
        for position, record in enumerate(sorted(made, key=order(inputs, name))):
            if name == "gsm8k":
                for filter_, field in (
                    ("strict-match", "strict"),
                    ("flexible-extract", "flexible"),
                ):
                    sample = theirs[position, filter_]
                    assert sample["resps"] == [[record["text"]]]
                    assert sample["filtered_resps"] == [record[field]]
                    assert sample["exact_match"] == record[f"exact_{field}"]
                    assert digest16(sample["arguments"][0][0]) == record["prompt_sha256"]
                continue
            sample = theirs[position, "none"]
            np.testing.assert_allclose(
                [float(r[0][0]) for r in sample["resps"]], record["ll"], rtol=0, atol=1e-4
            )
            assert [r[0][1] for r in sample["resps"]] == record["greedy"]
            # Dividing by the length of an empty choice is where we differ, on purpose.
            for metric in {"acc", "acc_norm"} & set(sample) - (
                {"acc_norm"} if 0 in record["characters"] else set()
            ):
                assert sample[metric] == record[metric]
        assert len(theirs) == len(made) * (2 if name == "gsm8k" else 1)
    return found


def order(inputs, name):
    """Ours are recorded as they are finished; ARC's are named by its authors, the others by
    position."""
    if name != "arc_challenge":
        return lambda record: int(record["id"])
    ids = [doc["id"] for doc in inputs.docs("arc-challenge")]
    return lambda record: ids.index(record["id"])


def digest16(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# The harness divides by the length of an empty choice, which one of the documents has.
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_our_evaluations_agree_with_the_harness(tmp_path, tiny, inputs):
    found = agree(tmp_path, tiny[2], inputs, shots=2)
    assert list(found) == [*ZERO_SHOT, "gsm8k"]
    results = json.loads((tmp_path / "theirs" / "results.json").read_text())
    assert (
        results["results"]["gsm8k"]["exact_match,strict-match"]
        == found["gsm8k"]["exact_match,strict-match"]
    )
    assert results["n-shot"] == {"gsm8k": 2} and results["lfl_jax"]["model"] == "tiny"
    assert {k: v["item"] for k, v in results["lfl_jax"]["sources"]["gsm8k"].items()} == {
        "test": "gsm8k-test",
        "train": "gsm8k-train",
    }


def test_our_evaluations_agree_with_the_harness_on_fetched_documents(tmp_path, tiny):
    for item in (*ZERO_SHOT.values(), "gsm8k-test"):
        if not assets.is_cached(item):
            pytest.skip(f"{item} is not fetched: python -m lfl_jax.fetch {item}")
    few = {item: readers.docs(item)[:4] for item in (*ZERO_SHOT.values(), "gsm8k-test")}
    agree(tmp_path, tiny[2], Inputs(docs=lambda item: few.get(item) or fetched(item)), shots=0)


# What is asked of the model


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


# Files, and being killed


class Killed(Exception):
    """Stands for a kill in the middle of an evaluation."""


def limited(model, calls):
    """The model, until it was called this often; how often it was is in the list."""
    made = []

    def once(function):
        def call(*args, **kwargs):
            if len(made) == calls:
                raise Killed
            made.append(1)
            return function(*args, **kwargs)

        return call

    return dataclasses.replace(model, score=once(model.score), generate=once(model.generate)), made


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path, toy_model, tokenizer, inputs):
    tasks, settings = (
        ["winogrande", "gsm8k"],
        dataclasses.replace(SETTINGS, rows=1, length=48, generate_rows=5),
    )

    def evaluate(folder, calls):
        model, made = limited(toy_model, calls)
        try:
            options = {"num_fewshot": 0, "docs": inputs.docs, "report": quiet}
            return bridge.run(model, tasks, settings, out=tmp_path / folder, **options), len(made)
        finally:
            assert len(made) <= calls

    def content(folder):
        return {task: (tmp_path / folder / f"samples_{task}.jsonl").read_text() for task in tasks}

    whole, total = evaluate("whole", 99)
    store = tmp_path / "parts" / "requests.jsonl"
    for more in (1, total - 3):  # in the middle of scoring, then of generating
        with pytest.raises(Killed):
            evaluate("parts", more)
        with store.open("a") as file:
            file.write('{"key": "half a li')
    assert not (tmp_path / "parts" / "results.json").exists()
    resumed, rest = evaluate("parts", 2)
    assert (resumed, rest) == (whole, 2) and content("parts") == content("whole")
    assert evaluate("parts", 0) == (whole, 0)


def test_groups_hold_fetched_tasks_and_ones_own(
    tmp_path, toy_model, tokenizer, suite, inputs, few_tasks
):
    (suite / "mine.yaml").write_text(json.dumps({"group": "mine", "task": ["hellaswag", "pets"]}))
    few = lambda item: inputs.docs(item)[:2] if item == "hellaswag" else fetched(item)  # noqa: E731
    options = {
        "out": tmp_path,
        "include": str(suite),
        "docs": few,
        "num_fewshot": 0,
        "report": quiet,
    }
    assert set(bridge.run(toy_model, ["mine"], SETTINGS, **options)) == {
        "hellaswag",
        "pets",
    }
    assert len(samples(tmp_path, "hellaswag")) == 2 and len(samples(tmp_path, "pets")) == 3
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["lfl_jax"]["sources"]["hellaswag"]["validation"]["item"] == "hellaswag"
    assert results["configs"]["hellaswag"]["dataset_path"] == "hellaswag"


def test_a_task_in_the_folder_comes_before_a_fetched_one(
    tmp_path, toy_model, tokenizer, suite, inputs
):
    text = (suite / "pets.yaml").read_text().replace('"task": "pets"', '"task": "hellaswag"')
    (suite / "pets.yaml").write_text(text)
    options = {"out": tmp_path, "include": str(suite), "docs": inputs.docs, "report": quiet}
    bridge.run(toy_model, ["hellaswag"], SETTINGS, **options)
    assert len(samples(tmp_path, "hellaswag")) == 3
    assert json.loads((tmp_path / "results.json").read_text())["lfl_jax"]["sources"] == {}


def test_answers_of_another_model_are_put_aside(tmp_path):
    file = tmp_path / "requests.jsonl"
    Answers(file, {"model": "a"}).add({"k": 1})
    assert Answers(file, {"model": "a"})["k"] == 1
    assert "k" not in Answers(file, {"model": "b"})
    assert (tmp_path / "requests.old.jsonl").exists()


# Mistakes


@pytest.fixture
def few_tasks(monkeypatch):
    """The harness's index without most of its 14000 tasks, whose files take it 8 seconds to
    read."""
    from lm_eval.tasks._index import TaskIndex

    everything = TaskIndex._iter_yaml_files
    few = lambda root: (  # noqa: E731
        f for f in everything(root) if root.name != "tasks" or f.parent.name in ("arc", "hellaswag")
    )
    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", staticmethod(few))


def fetched(item):
    if item == "hellaswag":
        return [
            {"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e"], "label": "0"}
        ]
    if item == "gsm8k-test":
        return [{"question": "1+1?", "answer": "#### 2"}]
    if item == "arc-challenge":
        return [{"id": "a", "query": "Question: 1?\nAnswer:", "choices": ["b", "c"], "gold": 1}]
    raise UserError(f"{item} is not fetched: run `python -m lfl_jax.fetch {item}`")


@pytest.mark.parametrize(
    ("tasks", "options", "words"),
    [
        (["hellaswga"], {}, "lm-eval has no task 'hellaswga'; near it: hellaswag"),
        (["arc_challenge", "ai2_arc"], {}, "cannot load this: Couldn't reach 'allenai/ai2_arc' on"
                                           " the Hub (Offline"),
        ([], {}, "name at least one task"),
        (["winogrande"], {}, "winogrande is not fetched: run `python -m lfl_jax.fetch winogrande`"),
        (["gsm8k"], {}, "gsm8k: its 5 examples in the prompt come from a training split that is not"
                        " in the cache:"
         " `python -m lfl_jax.fetch gsm8k-train`, num_fewshot=0, or data='hub'"),
        (["hellaswag"], {"num_fewshot": 3}, "hellaswag: its 3 examples in the prompt come from a"
                                            " training split"),
        (["hellaswag"], {"data": "internet"}, "data='internet': documents come from 'cache' or from"
                                              " 'hub'"),
        (["hellaswag"], {"include": "/nowhere"}, "include='/nowhere' is no folder"),
        (["hellaswag"], {"chat": True}, "carries no chat template"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    tmp_path, toy_model, tokenizer, few_tasks, monkeypatch, tasks, options, words
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        bridge.run(
            toy_model,
            tasks,
            SETTINGS,
            out=tmp_path,
            docs=fetched,
            report=quiet,
            **options,
        )
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_one_process_only(tmp_path, toy_model, tokenizer, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="evaluated by one process"):
        bridge.run(toy_model, ["hellaswag"], SETTINGS, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_harness_is_named(tmp_path, toy_model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"install the eval extra: pip install 'lfl_jax\[eval\]'"):
        bridge.run(toy_model, ["hellaswag"], SETTINGS, out=tmp_path)


def test_arc_is_the_original_again(inputs):
    """Texts as fetched, and the answer by position; labels that were numbers are letters now."""
    for doc in inputs.docs("arc-challenge"):
        gold = doc["choices"]["label"].index(doc["answerKey"])
        query = f"Question: {doc['question']}\nAnswer:"
        rendered = {
            "id": doc["id"],
            "query": query,
            "choices": doc["choices"]["text"],
            "gold": gold,
        }
        again = documents.arc_fields(rendered)
        assert (again["question"], again["choices"]["text"]) == (
            doc["question"],
            doc["choices"]["text"],
        )
        assert again["choices"]["label"].index(again["answerKey"]) == gold


def test_it_runs_without_torch_and_without_a_network(tmp_path, suite):
    """In a process of its own, where importing torch or transformers fails and so does every
    connection."""
    code = f"""
import socket, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name in ("torch", "transformers") else self.finder.find_spec(name, *rest)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
def refuse(*args, **kwargs): raise SystemExit("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from lfl_jax.evals.harness import bridge
from lfl_jax.evals.task import Scorer
from lfl_jax.evals.settings import Settings
from lfl_jax.text.tokenizers import byte_tokenizer
score = lambda rows: (rows["weights"] * rows["targets"], rows["targets"] > 99)
model = Scorer(
    "fake", byte_tokenizer(), score, lambda prompts, **options: ["2"] * len(prompts)
)
settings = Settings(rows=2, length=128, generate_rows=4, max_new_tokens=12, window=512)
out, include = Path({str(tmp_path)!r}), {str(suite)!r}
bridge.run(model, ["pets", "sums"], settings, out=out, include=include)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "|sums |" in done.stdout and "0.3333" in done.stdout
    assert {line.split()[0] for line in done.stderr.splitlines()} <= {"lm-eval:"}, "no chatter"


# The harness's own model, on the same weights


@pytest.fixture(scope="module")
def real():
    """What HFLM made of SmolLM2 (tests/parity/make_lm_eval_bridge.py), and our evaluation of the
    same documents."""
    for item in ("smollm2-135m", *ZERO_SHOT.values(), "gsm8k-test", "boolq"):
        if not assets.is_cached(item):
            pytest.skip(f"{item} is not fetched: python -m lfl_jax.fetch smollm2-135m evals")
    fixture = json.loads(PARITY.read_text(encoding="utf-8"))
    base = base_model.load(Config.from_dict(math_ift.get_config()), make_rules())
    model = base.model
    rules, tokenizer = make_rules(), base.tokenizer
    return fixture, scorer.build(model, base.cfg, tokenizer, rules, "smollm2", generate_rows=8)


def compare(tmp_path, real, name, most):
    """Prompts and token ids exactly, log-probabilities to 2e-3, answers and metrics exactly."""
    fixture, judged = real
    task, _, shots, length, tokens, chat = fixture["cases"][name]["case"]
    everything = fixture["cases"][name]["documents"]
    wanted = everything[:most]
    settings = Settings(
        rows=1, length=min(length, 512), generate_rows=8, max_new_tokens=256, window=length
    )
    options = {"gen_kwargs": {"max_gen_toks": tokens}} if task == "gsm8k" else {}
    found = bridge.run(
        judged,
        [task],
        settings,
        out=tmp_path / name,
        num_fewshot=shots,
        chat=chat,
        docs=lambda item: chosen(item, [document["index"] for document in wanted]),
        report=quiet,
        **options,
    )
    made = samples(tmp_path / name, task)
    for position, document in enumerate(wanted):
        of_document = {name: sample for (doc, name), sample in made.items() if doc == position}
        check(harness(judged, settings), of_document, document)
    if wanted == everything:
        for metric, value in fixture["cases"][name]["results"].items():
            assert found[task][metric] == pytest.approx(value, abs=1e-12), metric


def chosen(item, indices):
    docs = readers.docs(item)
    return docs if item == "gsm8k-train" else [docs[i] for i in indices]


def check(lm, made, wanted):
    """One document of the fixture; `made` are our samples of it by filter."""
    arguments = [tuple(a) for a in next(iter(made.values()))["arguments"]]
    if "text" in wanted:
        assert records.digest(arguments[0][0]) == wanted["prompt"]
        assert records.digest(lm.tok_encode(arguments[0][0])) == wanted["ids"]
        for name, sample in made.items():
            assert sample["resps"][0][0] == wanted["text"]
            assert [sample["filtered_resps"][0], sample["exact_match"]] == wanted[name]
        return
    assert records.digest(arguments) == wanted["prompt"]
    assert records.digest([lm._encode_pair(*a) for a in arguments]) == wanted["ids"]
    scores = [r[0] for r in made["none"]["resps"]]
    np.testing.assert_allclose([ll for ll, _ in scores], wanted["ll"], rtol=0, atol=2e-3)
    assert [greedy for _, greedy in scores] == wanted["greedy"]
    for metric in {"acc", "acc_norm"} & set(wanted):
        assert made["none"][metric] == wanted[metric]


@pytest.mark.parametrize(
    "name",
    [
        "hellaswag",
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*ZERO_SHOT, "gsm8k")[1:]),
    ],
)
def test_smollm2_is_judged_as_by_hflm(tmp_path, real, name):
    compare(tmp_path, real, name, 2 if name == "gsm8k" else 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", json.loads(PARITY.read_text(encoding="utf-8"))["cases"])
def test_smollm2_is_judged_as_by_hflm_on_all(tmp_path, real, name):
    if real[0]["cases"][name]["case"][2] and not assets.is_cached("gsm8k-train"):
        pytest.skip("gsm8k-train is not fetched: python -m lfl_jax.fetch gsm8k-train")
    compare(tmp_path, real, name, None)


@pytest.mark.slow
def test_texts_are_scored_as_by_hflm(real):
    fixture, judged = real
    wanted = fixture["rolling"]
    lm = harness(judged, dataclasses.replace(SETTINGS, rows=1, length=wanted["length"]))
    asked = [Asked(doc["passage"]) for doc in readers.docs("boolq")[: len(wanted["ll"])]]
    np.testing.assert_allclose(lm.loglikelihood_rolling(asked), wanted["ll"], rtol=0, atol=1e-2)
