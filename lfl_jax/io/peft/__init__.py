"""Adapter folders of Hugging Face PEFT in and out: LoRA (rank-stabilised too), DoRA, (IA)^3 and
VeRA.

A folder is adapter_config.json and adapter_model.safetensors. Whatever would make the result differ
from what PEFT computes is refused by name. A file for each kind: `lora`, `ia3`, `vera`.
"""

from lfl_jax.io.peft.read import Loaded, load
from lfl_jax.io.peft.write import save

__all__ = ["Loaded", "load", "save"]
