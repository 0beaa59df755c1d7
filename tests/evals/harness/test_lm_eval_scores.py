"""Scores and texts under the harness: those of a plain computation, and of our own evaluations."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evals.harness.shared import DOCS, SETTINGS, SUITE, ZERO_SHOT, fetched, quiet, samples

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.evals import records, run
from lfl_jax.evals.harness import bridge
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS
from lfl_jax.models import llama
from lfl_jax.text.tokenizers import byte_tokenizer


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
