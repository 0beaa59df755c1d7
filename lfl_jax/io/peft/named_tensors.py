"""The tensors of a PEFT folder by the keys that save_pretrained writes."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.peft.fields import show
from lfl_jax.io.peft.modules import CONFIG, STEM
from lfl_jax.io.peft.stacks import Shapes

# A tensor of an adapter, with the adapter's name in its key where a plain state_dict was saved.
OF_ADAPTER = re.compile(
    r"(?P<module>.*)\.(?P<leaf>lora_A|lora_B|lora_magnitude_vector|lora_embedding_[AB]"
    r"|ia3_l|vera_A|vera_B|vera_lambda_[bd])"
    r"(\.(?!weight$)(?P<name>[^.]+))?(?P<end>\.weight)?"
)
# A tensor of a module that is saved whole, as a plain state_dict names it.
OF_SAVED_MODULE = re.compile(
    r"(?P<module>.*)\.modules_to_save\.(?P<name>[^.]+)\.(?P<end>weight|bias)"
)
MAX_KEYS = 4  # that a message lists


class NamedTensors:
    """A folder's tensors; `keys` maps each canonical key to the one in the file.

    Read, too: an adapter's name inside the keys ("lora_A.default.weight", as in a plain
    state_dict), and lora_magnitude_vector with a trailing ".weight".
    """

    def __init__(self, folder: Path):
        """Read the headers. UserError for a file that is missing, not whole, or a pickle."""
        self.opened = tensor_file.open_folder(folder, STEM)
        self.file = next(iter(self.opened.files.values()), folder / f"{STEM}.safetensors")
        canonical = {key: _canonical(key) for key in self.opened}
        adapters = {name for _, name in canonical.values() if name is not None}
        if len(adapters) > 1:
            names = ", ".join(show(name) for name in sorted(adapters))
            raise UserError(
                f"{self.file}: tensors of several adapters ({names}); save one adapter to a folder"
            )
        self.keys = {plain: key for key, (plain, _) in canonical.items()}
        if len(self.keys) != len(self.opened):
            twice = next(plain for key, (plain, _) in canonical.items() if self.keys[plain] != key)
            raise UserError(
                f"{self.file}: {twice} is there twice (with and without '.weight' or a name); keep"
                " one"
            )

    def read(self, key: str) -> Float32[np.ndarray, "..."]:
        """A tensor in float32; UserError if it is not finite."""
        with np.errstate(all="ignore"):
            tensor = self.opened[self.keys[key]].astype(np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{self.file}: {self.keys[key]} holds NaN or infinity: training had diverged"
            )
        return tensor

    def check(self, required: Shapes, known: Shapes, n_layers: int) -> None:
        """UserError for a missing tensor, one that is not known, and one of another shape."""
        foreign = [key for key in self.keys if key not in known]
        missing = [key for key in required if key not in self.keys]
        # The usual cause first: an adapter of a deeper model.
        beyond = [key for key in foreign if _layer_of(key) >= n_layers]
        if beyond:
            raise UserError(
                f"{self.file}: made for more than the {n_layers} layers of this model:"
                f" {_list(beyond)}"
            )
        if foreign:
            raise UserError(
                f"{self.file}: tensors of no module that {CONFIG} names: {_list(foreign)}"
            )
        if missing:
            raise UserError(
                f"{self.file}: {CONFIG} names modules whose tensors are not there: {_list(missing)}"
            )
        for key, in_file in self.keys.items():
            shape = self.opened.shapes[in_file]
            if shape != known[key]:
                raise UserError(
                    f"{self.file}: {in_file} has shape {show(shape)}; expected {known[key]}"
                )


def _canonical(key: str) -> tuple[str, str | None]:
    """(the key as save_pretrained writes it, the adapter's name inside it or None)."""
    if saved := OF_SAVED_MODULE.fullmatch(key):
        return f"{saved['module']}.{saved['end']}", saved["name"]
    match = OF_ADAPTER.fullmatch(key)
    if match is None:
        return key, None
    end = "" if match["leaf"] == "lora_magnitude_vector" else match["end"] or ""
    return f"{match['module']}.{match['leaf']}{end}", match["name"]


def _layer_of(key: str) -> int:
    """The layer's number in a key; -1 without one."""
    match = re.search(r"\.layers\.(\d{1,9})\.", key)
    return int(match[1]) if match else -1


def _list(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > MAX_KEYS else ""
    return ", ".join(show(key)[1:-1] for key in keys[:MAX_KEYS]) + more
