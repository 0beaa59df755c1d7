"""Adapter folders of Hugging Face PEFT in and out: LoRA, rank-stabilised LoRA and DoRA, and nothing approximately.

A folder is adapter_config.json and adapter_model.safetensors. Whatever would make the result differ from what PEFT
computes is refused by name.
"""

from lfl_jax.io.peft.read import Loaded, load
from lfl_jax.io.peft.write import save

__all__ = ["Loaded", "load", "save"]
