"""Writes tests/parity/peft: adapter folders that peft saved, and what peft computes with them, for
test_peft.py.

    python tests/parity/make_peft.py                  the fixtures; new ones are right only when this script changes
    python tests/parity/make_peft.py --kinds          those of (IA)^3 and VeRA, in peft/kinds
    python tests/parity/make_peft.py --check FOLDER   logits of folders that lfl_jax.io.peft.save wrote

Needs the extra peers: torch, transformers, peft. The second is called by `pytest -m peers
tests/parity/test_peft.py`, which is to be run with new fixtures, too. Factors look trained; one
folder is in bfloat16. Numbers are computed in float64 from what the folder holds, with the base's
weights rounded to float16, in which they are stored.
"""

import copy
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).with_name("peft")
LAYERS, VOCAB, STEPS = 3, 64, 5
LR, WEIGHT_DECAY, EPS, CLIP = 1e-2, 0.1, 1e-6, 0.05
NAMES = {"attn/q": "self_attn.q_proj", "attn/k": "self_attn.k_proj", "attn/v": "self_attn.v_proj",
         "attn/o": "self_attn.o_proj", "mlp/gate": "mlp.gate_proj", "mlp/up": "mlp.up_proj",
         "mlp/down": "mlp.down_proj"}  # fmt: skip
NORMS = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
CASES = {
    "list": {"r": 2, "lora_alpha": 5, "target_modules": ["v_proj", "o_proj", "up_proj", "down_proj", "q_proj"]},
    "layers": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 2],
               "layers_pattern": "layers"},
    "regex_bf16": {"r": 2, "lora_alpha": 4, "target_modules": r".*layers\.[12]\.(self_attn\.[qo]|mlp\.up)_proj"},
    "rslora": {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "down_proj"], "use_rslora": True,
               "exclude_modules": ["layers.1.mlp.down_proj"]},
    "dora": {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "use_dora": True},
    # peft sorts the patterns when it saves and takes the first match when it loads: these are in
    # order already
    "patterns": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"],
                 "rank_pattern": {"k_proj": 3, "layers.0.self_attn.q_proj": 4, r"layers\.[01]\..*_proj": 1},
                 "alpha_pattern": {"model.layers.2.mlp.gate_proj": 7, "o_proj|gate_proj": 1}},
    "head": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
    "tied_embedding": {"r": 2, "lora_alpha": 4, "target_modules": ["k_proj"], "modules_to_save": ["embed_tokens"]},
}  # fmt: skip
# (IA)^3 and VeRA: only PEFT's logits are stored, in kinds/expected.npz
KINDS = {
    "ia3": IA3Config(),  # PEFT's modules for a Llama: k_proj, v_proj, and down_proj's input
    "ia3_regex": IA3Config(target_modules=r".*layers\.[02].*\.(q|up|down)_proj",
                           feedforward_modules=r".*(up|down)_proj", modules_to_save=["lm_head"]),
    "vera": VeraConfig(r=4, target_modules="all-linear"),
    "vera_drawn": VeraConfig(r=3, target_modules=["q_proj", "v_proj", "down_proj"], save_projection=False,
                             projection_prng_key=2**32 + 7, layers_to_transform=[0, 2]),
    "lora_head": LoraConfig(r=2, target_modules=["q_proj", "lm_head"], rank_pattern={"lm_head": 3}),
    "lora_both": LoraConfig(r=2, target_modules=["v_proj", "lm_head", "embed_tokens"], use_rslora=True),
    "tied_lora_embed": LoraConfig(r=2, target_modules=["v_proj", "embed_tokens"]),
    "tied_lora_head": LoraConfig(r=2, target_modules=["v_proj", "lm_head"]),
    "tied_lora_both": LoraConfig(r=2, target_modules=["v_proj", "lm_head", "embed_tokens"]),
}  # fmt: skip
# Over the bases of hf/: biases and norms that a Llama does not have
FAMILIES = {
    "qwen2_bias_all": LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], bias="all", modules_to_save=["lm_head"]
    ),
    "qwen2_lora_only": LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], bias="lora_only", use_dora=True
    ),
    "qwen2_whole": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["v_proj"]),
    "qwen2_vera": VeraConfig(r=2, bias="vera_only"),
    "qwen3_ia3": IA3Config(modules_to_save=["q_norm"]),
}


def base_of(folder: Path) -> torch.nn.Module:
    """The model that a folder's name, or its config's base_model_name_or_path, stands for."""
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    if named in ("qwen2", "qwen3"):
        return AutoModelForCausalLM.from_pretrained(HERE.with_name("hf") / named)
    return base(folder.name.startswith("tied"))


def empty_model(tied: bool) -> LlamaForCausalLM:
    """Three layers, grouped queries."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rope_theta=500.0, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def base(tied: bool) -> LlamaForCausalLM:
    """Weights larger than at initialisation, so that everything matters, and whole in float16."""
    generator = torch.Generator().manual_seed(0)
    model = empty_model(tied)
    with torch.no_grad():
        for name, p in sorted(empty_model(False).named_parameters()):
            x = torch.randn(p.shape, generator=generator) * 0.25 + (1.0 if p.ndim == 1 else 0.0)
            if name in dict(model.named_parameters()):
                model.get_parameter(name).copy_(x.half().float())
    return model


def parameters(model) -> dict[str, np.ndarray]:
    """All parameters by lfl_jax's paths, (in, out), layers stacked."""
    found = dict(model.named_parameters())

    def stack(module: str) -> np.ndarray:
        rows = [
            found[f"model.layers.{i}.{module}.weight"].detach().numpy().T for i in range(LAYERS)
        ]
        return np.stack(rows)

    values = {f"layers/{path}": stack(module) for path, module in (NAMES | NORMS).items()}
    single = {
        "embed": "model.embed_tokens.weight",
        "final_norm": "model.norm.weight",
        "head": "lm_head.weight",
    }
    return values | {
        path: found[name].detach().numpy() for path, name in single.items() if name in found
    }


def train_like(model) -> None:
    """Moves everything trainable away from where it starts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in sorted(trainable(model).items()):
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)


def trainable(model) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters by the keys of adapter_model.safetensors."""
    keys = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            key = name.replace(".modules_to_save.default", "").replace(".default", "")
            keys[key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = p
    return keys


def loss_of(model, tokens) -> torch.Tensor:
    """Mean loss of the targets in the second half."""
    half = tokens.shape[1] // 2
    logits = model(input_ids=tokens[:, :-1]).logits[:, half:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, half + 1 :].flatten())


def five_steps(model, tokens, clip: float | None) -> np.ndarray:
    """Losses before each of five AdamW steps."""
    values = list(trainable(model).values())
    optimizer = torch.optim.AdamW(values, lr=LR, weight_decay=WEIGHT_DECAY, eps=EPS)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(values, clip)
            assert norm > 2 * clip, "the clipping must bite"
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def make(case: str, options: dict, tokens) -> dict[str, np.ndarray]:
    """Write a case's folder and return what peft computes with it."""
    folder = HERE / case
    tied = case.startswith("tied")
    model = get_peft_model(
        base(tied), LoraConfig(**options, lora_dropout=0.0, task_type="CAUSAL_LM")
    )
    train_like(model)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    file = folder / "adapter_model.safetensors"
    if case.endswith("bf16"):
        save_file(
            {k: v.bfloat16() for k, v in load_file(file).items()}, file, metadata={"format": "pt"}
        )
    model = PeftModel.from_pretrained(base(tied), folder, is_trainable=True).double()
    assert trainable(model).keys() == load_file(file).keys()
    loss = loss_of(model, tokens)
    loss.backward()
    found = {
        "logits": model(input_ids=tokens[:, :-1]).logits.detach().numpy(),
        "loss": np.float64(loss.item()),
    }
    if not tied:
        found |= {f"grad/{key}": p.grad.numpy().copy() for key, p in trainable(model).items()}
        found |= {"steps": five_steps(copy.deepcopy(model), tokens, None)}
        found |= {"clipped_steps": five_steps(copy.deepcopy(model), tokens, CLIP)}
    return {f"{case}/{k}": v for k, v in found.items()}


def write_fixtures() -> None:
    """All cases, the base, its logits and the tokens."""
    for case in CASES:
        shutil.rmtree(HERE / case, ignore_errors=True)
    tokens = torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(2))
    found = {"tokens": tokens.numpy().astype(np.int32)}
    found |= {f"base/{path}": x.astype(np.float16) for path, x in parameters(base(False)).items()}
    for tied in (False, True):
        with torch.no_grad():
            found[f"{'tied' if tied else 'untied'}/logits"] = (
                base(tied).double()(input_ids=tokens[:, :-1]).logits.numpy()
            )
    for case, options in CASES.items():
        found |= make(case, options, tokens)
    small = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}
    np.savez_compressed(HERE / "expected.npz", **small)


def write_kinds() -> None:
    """Folders of (IA)^3 and VeRA, and of models with biases and norms of q and k; PEFT's logits."""
    home, found = HERE / "kinds", {}
    shutil.rmtree(home, ignore_errors=True)
    tokens = torch.randint(0, 56, (2, 8), generator=torch.Generator().manual_seed(2))
    for case, config in (KINDS | FAMILIES).items():
        folder = home / case
        config.task_type, config.base_model_name_or_path = "CAUSAL_LM", case.split("_")[0]
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": case.split("_")[0]})
        )
        torch.manual_seed(0)
        model = get_peft_model(base_of(folder), config)
        train_like(model)
        config.base_model_name_or_path = case.split("_")[0]
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        model = PeftModel.from_pretrained(base_of(folder), folder).double()
        with torch.no_grad():
            found[case] = model(input_ids=tokens).logits.numpy().astype(np.float32)
    np.savez_compressed(home / "expected.npz", tokens=tokens.numpy().astype(np.int32), **found)


def check(parent: Path) -> None:
    """For each folder in it: peft's logits of parent/tokens.npy, into logits.npy. Names say where
    the base is tied."""
    tokens = torch.tensor(np.load(parent / "tokens.npy"))
    for folder in sorted(file.parent for file in parent.glob("*/adapter_config.json")):
        with warnings.catch_warnings(), torch.no_grad():
            # patterns and targets that match nothing
            warnings.simplefilter("error", RuntimeWarning)
            model = PeftModel.from_pretrained(base_of(folder), folder).double()
            np.save(folder / "logits.npy", model(input_ids=tokens).logits.numpy())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        check(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--kinds"]:
        write_kinds()
    else:
        write_fixtures()
