"""What adapter_config.json says: every field checked, and what it means for the modules of a
model."""

import json
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lfl_jax.errors import UserError
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft.places import CONFIG, EMBEDDINGS, Leaf, Place, adaptable, key_of

# Of every kind: provenance, and what only training used.
PROVENANCE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config",
}  # fmt: skip
CHOICE = {"target_modules", "modules_to_save", "bias"}
ADVICE = {
    "lora_bias": "an adapter's biases are not; train with lora_bias=false",
    "fan_in_fan_out": "that is for models with transposed weights; for a Llama it is false",
    "megatron_config": "save the adapter from a model that Megatron does not split",
    "alora_invocation_tokens": "the adapter acts after certain tokens only; train a plain LoRA",
    "target_parameters": "these models have no such parameters; name modules in target_modules",
    "trainable_token_indices": "save the whole embedding with modules_to_save=['embed_tokens']",
    "layer_replication": "the adapter belongs to a model with repeated layers; train on the model"
    " itself",
}
_SHORT = reprlib.Repr()  # what a file says can be of any length
_SHORT.maxstring = _SHORT.maxother = 120
show = _SHORT.repr


class Fields:
    """The fields of adapter_config.json, each checked when it is asked for; null counts as
    absent."""

    def __init__(self, folder: Path):
        """Read the file. UserError for no file and no JSON object."""
        self.file = folder / CONFIG
        if not self.file.is_file():
            raise UserError(
                f"{self.file}: no such file; expected a folder that PEFT's save_pretrained wrote"
            )
        try:
            with open(self.file, "rb") as opened:
                self.raw = json.loads(opened.read(1 << 24))
        except (OSError, ValueError, RecursionError):
            self.raw = None
        if not isinstance(self.raw, dict):
            raise UserError(
                f"{self.file}: not a JSON object of at most 16 MiB; save the adapter again"
            )

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """UserError for a field that is in use and has no meaning here."""
        for field, value in self.raw.items():
            if (
                value
                and field not in PROVENANCE
                and field not in known
                and (field, value) != ("bias", "none")
            ):
                why = ADVICE.get(field, "it has no counterpart here; train without it")
                raise UserError(
                    f"{self.file}: {show(field)[1:-1]}={show(value)} is not supported: {why}"
                )

    def get(self, field: str, default: Any, legal: Callable[[Any], bool], expected: str) -> Any:
        """The field's value, or the default; UserError says what was expected."""
        value = self.raw.get(field)
        if value is not None and not legal(value):
            raise UserError(f"{self.file}: {field}={show(value)}; expected {expected}")
        return default if value is None else value

    def flag(self, field: str) -> bool:
        """A boolean, false by default."""
        return self.get(field, False, lambda x: isinstance(x, bool), "true or false")

    def names(self, field: str) -> list[str]:
        """A list of strings, empty by default."""
        return self.get(field, [], _is_names, "a list of strings")

    def names_or_regex(self, field: str) -> Any:
        """A list of strings, or a compiled regex where there is one string."""
        value = self.get(
            field,
            [],
            lambda x: isinstance(x, str) or _is_names(x),
            "a list of strings or one regex",
        )
        return self.regex(field, value) if isinstance(value, str) and value else value

    def regex(self, field: str, pattern: str, around: str = "{}") -> re.Pattern:
        """A compiled regex."""
        try:
            with warnings.catch_warnings(action="ignore"):
                return re.compile(around.format(pattern))
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            raise UserError(
                f"{self.file}: {field}: {show(pattern)} is not a regex ({error})"
            ) from None

    def pattern(
        self, field: str, legal: Callable[[Any], bool], expected: str
    ) -> list[tuple[re.Pattern, Any]]:
        """rank_pattern or alpha_pattern: each key matches the end of a module's path, from a dot
        on."""
        found = self.get(
            field, {}, lambda x: isinstance(x, dict) and all(map(legal, x.values())), expected
        )
        return [(self.regex(field, key, r"(.*\.)?({})$"), value) for key, value in found.items()]


def _is_names(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(name, str) for name in x)


def _is_layers(x: Any) -> bool:
    return all(type(i) is int and i >= 0 for i in (x if isinstance(x, list) else [x]))


def target_modules(
    fields: Fields, places: dict[str, Place], default: list[str]
) -> tuple[list[str], list[str]]:
    """(linear modules of the layers, embedding and head) that the config names.

    default: PEFT's for this type of model, where the config names none.
    """
    chosen = _chooser(fields, len({place.layer for place in places.values()} - {None}), default)
    found = list(filter(chosen, adaptable(places)))
    if not found:
        there = ", ".join(module.split(".")[-1] for module in MODULES.values())
        targets = show(fields.raw.get("target_modules"))
        raise UserError(
            f"{fields.file}: target_modules={targets} names no module of this model's layers; there"
            f" are: {there}"
        )
    return found, list(filter(chosen, EMBEDDINGS))


def _chooser(fields: Fields, layers: int, default: list[str]) -> Callable[[str], bool]:
    """Whether the config puts an adapter at a module: what is excluded or saved whole is not
    adapted."""
    targets, excluded = (
        fields.names_or_regex("target_modules"),
        fields.names_or_regex("exclude_modules"),
    )
    targets = default if fields.raw.get("target_modules") is None else targets
    saved = [
        fields.regex("modules_to_save", m, r"(^|.*\.){}($|\..*)")
        for m in fields.names("modules_to_save")
    ]
    inside = _layer_filter(fields, isinstance(targets, re.Pattern), layers)
    if isinstance(targets, re.Pattern) and targets.pattern.lower() == "all-linear":
        targets = list(MODULES.values())

    def chosen(name: str) -> bool:
        out = names_module(excluded, name) or any(pattern.match(name) for pattern in saved)
        return not out and names_module(targets, name) and inside(name)

    return chosen


def names_module(wanted: Any, name: str) -> bool:
    """Whether a list of ends of paths, or a regex on whole paths, has this module."""
    if isinstance(wanted, re.Pattern):
        return wanted.fullmatch(name) is not None
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def _layer_filter(fields: Fields, regex: bool, layers: int) -> Callable[[str], bool]:
    """layers_to_transform: the numbers that may follow layers_pattern in a module's path."""
    wanted = fields.get("layers_to_transform", [], _is_layers, "a layer's number or a list of them")
    wanted = wanted if isinstance(wanted, list) else [wanted]
    before = fields.get(
        "layers_pattern", [], lambda x: isinstance(x, str) or _is_names(x), "names of module lists"
    )
    if (wanted and regex) or (before and not wanted):
        raise UserError(
            f"{fields.file}: layers_to_transform needs target_modules to be a list, and"
            " layers_pattern needs"
            " layers_to_transform (PEFT refuses the rest, too); write the layers into the regex"
        )
    if any(layer >= layers for layer in wanted):
        raise UserError(
            f"{fields.file}: layers_to_transform has {show(max(wanted))}; the model has {layers}"
            " layers"
        )
    names = [before] if isinstance(before, str) else before
    patterns = [
        fields.regex("layers_pattern", p, r"(?:^|.*?\.){}\.(?P<idx>\d+)\.") for p in names if p
    ]
    patterns = patterns or [re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")]

    def inside(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not wanted or (match is not None and int(match["idx"]) in wanted)

    return inside


def saved_modules(fields: Fields, places: dict[str, Place]) -> list[str]:
    """Modules that modules_to_save names, or is around; PEFT compares the ends of paths, not whole
    names."""
    ends = tuple(fields.names("modules_to_save"))

    def around(name: str) -> list[str]:
        parts = name.split(".")
        return [".".join(parts[: i + 1]) for i in range(len(parts))]

    return [name for name in places if any(module.endswith(ends) for module in around(name))]


def trained_biases(
    fields: Fields, modules: Iterable[str], places: dict[str, Place], only: str
) -> dict[str, Leaf]:
    """{key: bias} that the folder brings: none, those of the adapted modules (`only`), or the whole
    model's.

    A model without biases has none to bring, whatever the config says; so it is in PEFT.
    """
    value = fields.get(
        "bias", "none", lambda x: x in ("none", "all", only), f"'none', 'all' or {only!r}"
    )
    adapted = set(modules)
    wanted = {"none": set(), "all": set(places), only: adapted}[value]
    names = [name for name in places if name in wanted and places[name].bias]
    if names and any(places[name].bias for name in saved_modules(fields, places)):
        raise UserError(
            f"{fields.file}: bias={value!r} beside"
            f" modules_to_save={show(fields.raw['modules_to_save'])}: both bring"
            " biases of this model; expected one of them"
        )
    keys = {name: key_of(name, "base_layer.bias" if name in adapted else "bias") for name in names}
    return {keys[name]: places[name].leaves()["bias"] for name in names}
