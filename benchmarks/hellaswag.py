"""Scoring HellaSwag questions at the SmolLM2-135M shape in float32: ours against
lm-evaluation-harness's HF model.

    python benchmarks/hellaswag.py --questions=100

The same real questions and token ids on both sides (python -m lfl_jax.fetch smollm2-135m
hellaswag), random weights.
Look at cpu_ratio: CPU seconds of ours over the peer's. Needs the extra peers.
"""

import argparse

import paired

from lfl_jax import assets
from lfl_jax.assets import readers
from lfl_jax.evals import multiple_choice
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import hellaswag
from lfl_jax.model import Model
from lfl_jax.text import tokenizers
from lfl_jax.text.tokenizers import byte_tokenizer

LENGTH = 512


def requests(a: argparse.Namespace) -> list:
    """The token ids of every choice of the questions."""
    tokenizer = tokenizers.from_gguf(assets.path("smollm2-135m", "model.gguf"))
    docs = readers.docs("hellaswag")
    questions = hellaswag.questions(
        Inputs(docs=lambda name: docs[:: len(docs) // a.questions][: a.questions])
    )
    return [multiple_choice.requests(question, tokenizer, LENGTH) for question in questions]


def ours(a: argparse.Namespace):
    """Shared contexts computed once, in packed rows."""
    import jax
    import numpy as np

    from lfl_jax.core import spec
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.evals import batching, scorer
    from lfl_jax.models import llama
    from lfl_jax.models.presets import PRESETS

    cfg = PRESETS["smollm2-135m"]
    params = jax.jit(lambda key: spec.init(llama.specs(cfg), key))(jax.random.key(0))
    model = scorer.build(
        Model(params=params, adapter={}), cfg, byte_tokenizer(), make_rules(), "random"
    )
    of_questions = requests(a)

    def measure() -> float:
        planned = batching.plan(of_questions, 1, LENGTH)
        done = np.zeros(len(of_questions), bool)
        return float(
            sum(len(finished) for finished in batching.score_items(planned, model.score, done))
        )

    return measure, a.questions


def peer(a: argparse.Namespace):
    """HFLM's own scoring loop."""
    import os

    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, rope_theta=1e5, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
    lm = HFLM(
        pretrained=model,
        tokenizer=_any_tokenizer(),
        batch_size=a.peer_batch,
        max_length=LENGTH,
        device="cpu",
    )
    flat = [
        (("", ""), list(r.context), list(r.continuation)) for of_one in requests(a) for r in of_one
    ]

    def measure() -> float:
        return float(len(lm._loglikelihood_tokens(flat, disable_tqdm=True)) // 4)

    return measure, a.questions


def _any_tokenizer():
    """HFLM wants one; the ids are given, so it is never asked."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--peer_batch", type=int, default=8, help="the harness's batch size")
    paired.main(__file__, ours, peer, parser)
