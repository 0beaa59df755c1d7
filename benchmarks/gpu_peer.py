"""The other side of benchmarks/gpu.py: transformers and peft, the same shapes, a JSON object a line
for every row.

No QLoRA: peft has it from bitsandbytes, which is not among what this benchmark may need.

    python benchmarks/gpu_peer.py STAGE [--size=tiny]
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import gpu_sizes
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

Row = dict[str, Any]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LORA = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


def llama(shape: gpu_sizes.Shape, dtype: Any) -> Any:
    """A random model on the device, attention by torch's scaled_dot_product_attention."""
    config = LlamaConfig(**shape, max_position_embeddings=4096, attn_implementation="sdpa")
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def wait() -> None:
    """Until the device has done everything."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak() -> int | None:
    """Bytes allocated at most."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None


def step(size: gpu_sizes.Size, kind: str, compiled: bool, checkpointing: bool) -> Iterator[Row]:
    """A step as Trainer(bf16=True) takes it: autocast to bfloat16, clipping, fused AdamW. Adapters
    are float32."""
    full = kind == "full"
    shape, remat = size.full_shape if full else size.shape, "full" if checkpointing else "none"
    model = llama(shape, torch.float32 if full else torch.bfloat16)
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if not full:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**LORA, use_dora=kind == "dora"))
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, weight_decay=0.0, fused=DEVICE == "cuda")
    call = torch.compile(model) if compiled else model
    ids = np.random.default_rng(0).integers(3, shape["vocab_size"], (size.batch, size.tokens))
    ids = torch.from_numpy(ids).to(DEVICE)
    losses, took = [], []
    for _ in range(size.steps + 2):
        wait()
        start = time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = call(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        took.append(time.perf_counter() - start)
    yield {
        "framework": "peft" if not full else "transformers", "what": kind, "compiled": compiled, "batch": size.batch,
        "tokens": size.tokens, "remat": remat, "step_s": statistics.median(took[2:]), "first_step_s": took[0],
        "loss": losses[0], "last_loss": losses[-1], "peak_bytes": peak(),
    } | gpu_sizes.flops(shape, kind, remat) | versions()  # fmt: skip


def decode(size: gpu_sizes.Size, compiled: bool) -> Iterator[Row]:
    """generate; compiled: with the static cache, which transformers compiles. Tokens after the
    first 32, as ours."""
    model = llama(size.shape, torch.bfloat16).eval()
    for rows in size.decode_rows:
        ids = torch.from_numpy(
            np.random.default_rng(0).integers(3, size.shape["vocab_size"], (rows, size.prompt))
        )
        ids = ids.to(DEVICE)

        def run(new: int, ids: Any = ids) -> float:
            wait()
            start = time.perf_counter()
            options = {"cache_implementation": "static"} if compiled else {}
            with torch.inference_mode():
                mask = torch.ones_like(ids)
                options |= {
                    "do_sample": False,
                    "min_new_tokens": new,
                    "max_new_tokens": new,
                    "pad_token_id": 0,
                }
                out = model.generate(ids, attention_mask=mask, **options)
            assert out.shape[1] == size.prompt + new
            wait()
            return time.perf_counter() - start

        run(64), run(32)
        pairs = [(run(64), run(32)) for _ in range(3)]
        row = {"framework": "transformers", "what": "bfloat16", "compiled": compiled, "rows": rows}
        yield row | gpu_sizes.decoded(pairs, 32, rows) | {"peak_bytes": peak()} | versions()


def versions() -> Row:
    """What ran."""
    import peft
    import transformers

    return {
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        }
    }


STAGES: dict[str, Callable[[gpu_sizes.Size], Iterator[Row]]] = {
    **{
        f"peer_{kind}{'_compiled' if compiled else ''}{'_checkpointing' if checkpointing else ''}": functools.partial(
            step, kind=kind, compiled=compiled, checkpointing=checkpointing
        )
        for kind in ("lora", "dora", "full")
        for compiled in (False, True)
        for checkpointing in (False, True)
    },
    "peer_decode": functools.partial(decode, compiled=False),
    "peer_decode_compiled": functools.partial(decode, compiled=True),
}


if __name__ == "__main__":
    gpu_sizes.main(STAGES, __doc__)
