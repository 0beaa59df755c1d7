"""Write what transformers computes with SmolLM2-135M-Instruct, read from its GGUF file in float32.

    pip install -e .[peers]
    python tests/parity/make_smollm2_logits.py MODEL.gguf

writes tests/parity/smollm2_logits.json: for each prompt its token ids, the negative log-likelihood
of each next token of the prompt, the 20 largest logits at the last position with their ids, the
logarithm of the sum of exponentials there, and 20 greedily decoded tokens. The ids are by this
package's tokenizer: transformers' reading of the one in the GGUF leaves out the step that sets
digits apart.
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers

from lfl_jax.text import tokenizers
from lfl_jax.text.chat import TEMPLATES

PROBLEM = (
    "Mia has 3 boxes with 12 pencils each. She gives 7 pencils away. How many pencils are left?"
)
PROMPTS = {
    "plain": "The capital of France is",
    "gsm8k": TEMPLATES["plain"].render(PROBLEM, "")[0],
    "chat": TEMPLATES["smollm2"].render(PROBLEM, "")[0],
}


@torch.no_grad()
def measure(model: transformers.PreTrainedModel, ids: list[int]) -> dict:
    tokens = torch.tensor([ids])
    logits = model(tokens).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
    top = logits[-1].topk(20)
    options = {"attention_mask": torch.ones_like(tokens), "do_sample": False, "max_new_tokens": 20}
    greedy = model.generate(tokens, **options)
    return {
        "ids": ids,
        "nll": [round(x, 6) for x in nll.tolist()],
        "top_ids": top.indices.tolist(),
        "top_logits": [round(x, 5) for x in top.values.tolist()],
        "logsumexp": round(logits[-1].logsumexp(-1).item(), 6),
        "greedy": greedy[0, len(ids) :].tolist(),
    }


def main() -> None:
    path = sys.argv[1]
    tokenizer = tokenizers.from_gguf(path)
    options = {
        "gguf_file": os.path.basename(path),
        "dtype": torch.float32,
        "attn_implementation": "eager",
    }
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), **options
    ).eval()
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    prompts = {
        name: {"text": text} | measure(model, tokenizer.encode(text))
        for name, text in PROMPTS.items()
    }
    for entry in prompts.values():
        print(repr(tokenizer.decode(entry["greedy"])))
    out = Path(__file__).with_name("smollm2_logits.json")
    out.write_text(json.dumps({"made_with": made_with, "prompts": prompts}) + "\n")


if __name__ == "__main__":
    main()
