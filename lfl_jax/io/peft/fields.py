"""adapter_config.json: every field checked, and its meaning for the modules of a model."""

import json
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lfl_jax.errors import UserError
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.peft import trial
from lfl_jax.io.peft.modules import CONFIG, EMBEDDINGS, Leaf, Modules, adaptable, key_of

T = TypeVar("T")
MAX_BYTES = 1 << 24

# Of every kind: provenance, and what only training used.
PROVENANCE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "runtime_config",
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
    """The fields of adapter_config.json, each checked when it is read; null counts as absent."""

    def __init__(self, folder: Path):
        """Read the file. UserError for no file and no JSON object."""
        self.file = folder / CONFIG
        if not self.file.is_file():
            raise UserError(
                f"{self.file}: no such file; expected a folder that PEFT's save_pretrained wrote"
            )
        try:
            # Adapters come from anywhere: a huge file is cut, and then no JSON.
            with open(self.file, "rb") as file:
                self.raw = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            self.raw = None
        if not isinstance(self.raw, dict):
            raise UserError(
                f"{self.file}: not a JSON object of at most 16 MiB; save the adapter again"
            )

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """UserError for a field that is in use and has no meaning for us."""
        known = {*PROVENANCE, *known}
        for field, value in self.raw.items():
            # A field that is off changes nothing, known or not.
            if not value or field in known or (field, value) == ("bias", "none"):
                continue
            advice = ADVICE.get(field, "it has no counterpart here; train without it")
            raise UserError(
                f"{self.file}: {show(field)[1:-1]}={show(value)} is not supported: {advice}"
            )

    def get(self, field: str, default: T, is_legal: Callable[[Any], bool], expected: str) -> T:
        """The field's value, or the default; UserError says what was expected."""
        value = self.raw.get(field)
        if value is not None and not is_legal(value):
            raise UserError(f"{self.file}: {field}={show(value)}; expected {expected}")
        return default if value is None else value

    def flag(self, field: str) -> bool:
        """A boolean, false by default."""
        return self.get(field, False, lambda x: isinstance(x, bool), "true or false")

    def names(self, field: str) -> list[str]:
        """A list of strings, empty by default."""
        return self.get(field, [], _is_names, "a list of strings")

    def names_or_regex(self, field: str) -> list[str] | re.Pattern:
        """A list of strings, or a compiled regex where there is one string."""
        value = self.get(field, [], _is_name_or_names, "a list of strings or one regex")
        if isinstance(value, str):
            return self.regex(field, value) if value else []
        return value

    def regex(self, field: str, pattern: str, around: str = "{}") -> re.Pattern:
        """A compiled regex; around: the regex that {} stands in.

        UserError for one that is none, and for one that takes for ever on a module's name.
        """
        compiled = self._compiled(field, pattern, around)
        self._try_out(field, [compiled])
        return compiled

    def _try_out(self, field: str, patterns: Sequence[re.Pattern]) -> None:
        slow = trial.first_slow([pattern.pattern for pattern in patterns])
        if slow is not None:
            raise UserError(
                f"{self.file}: {field}: {show(slow)} backtracks without end on names of modules;"
                " write it without repetitions inside of repetitions"
            )

    def _compiled(self, field: str, pattern: str, around: str) -> re.Pattern:
        try:
            # Python warns of odd but legal regexes, which whoever loads the file cannot change.
            with warnings.catch_warnings(action="ignore"):
                return re.compile(around.format(pattern))
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            raise UserError(
                f"{self.file}: {field}: {show(pattern)} is not a regex ({error})"
            ) from None

    def pattern(
        self, field: str, is_legal: Callable[[Any], bool], expected: str
    ) -> list[tuple[re.Pattern, Any]]:
        """rank_pattern or alpha_pattern: a key matches the end of a path, from a dot on."""

        def is_object(value: object) -> bool:
            return isinstance(value, dict) and all(map(is_legal, value.values()))

        values = self.get(field, {}, is_object, expected)
        compiled = [self._compiled(field, key, r"(.*\.)?({})$") for key in values]
        # Together, since a folder may have a pattern for every module.
        self._try_out(field, compiled)
        return list(zip(compiled, values.values(), strict=True))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_name_or_names(value: object) -> bool:
    return isinstance(value, str) or _is_names(value)


def _is_layers(value: object) -> bool:
    layers = value if isinstance(value, list) else [value]
    return all(type(layer) is int and layer >= 0 for layer in layers)


# -- the modules that the fields name


def target_modules(
    fields: Fields, modules: Modules, default: list[str]
) -> tuple[list[str], list[str]]:
    """(linear modules of the layers, embedding and head) that the config names.

    default: PEFT's for this type of model, where the config names none.
    """
    n_layers = len({module.layer for module in modules.values()} - {None})
    is_target = _target_filter(fields, n_layers, default)
    names = list(filter(is_target, adaptable(modules)))
    if not names:
        known = ", ".join(module.split(".")[-1] for module in MODULES.values())
        targets = show(fields.raw.get("target_modules"))
        raise UserError(
            f"{fields.file}: target_modules={targets} names no module of this model's layers; there"
            f" are: {known}"
        )
    return names, list(filter(is_target, EMBEDDINGS))


def _target_filter(fields: Fields, n_layers: int, default: list[str]) -> Callable[[str], bool]:
    """A test of a module's name: targets, but those that are excluded or saved whole."""
    targets = fields.names_or_regex("target_modules")
    excluded = fields.names_or_regex("exclude_modules")
    if fields.raw.get("target_modules") is None:
        targets = default
    saved = [
        fields.regex("modules_to_save", name, r"(^|.*\.){}($|\..*)")
        for name in fields.names("modules_to_save")
    ]
    in_layers = _layer_filter(fields, isinstance(targets, re.Pattern), n_layers)
    # A string is a regex to PEFT, but for this one word.
    if isinstance(targets, re.Pattern) and targets.pattern.lower() == "all-linear":
        targets = list(MODULES.values())

    def is_target(name: str) -> bool:
        if names_module(excluded, name) or any(pattern.match(name) for pattern in saved):
            return False
        return names_module(targets, name) and in_layers(name)

    return is_target


def names_module(names: list[str] | re.Pattern, module: str) -> bool:
    """True if a list of ends of paths, or a regex on whole paths, has this module."""
    # As in PEFT: a regex has to match the whole path, a name only its end.
    if isinstance(names, re.Pattern):
        return names.fullmatch(module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer_filter(fields: Fields, targets_are_regex: bool, n_layers: int) -> Callable[[str], bool]:
    """layers_to_transform: the numbers that may follow layers_pattern in a module's path."""
    layers = fields.get("layers_to_transform", [], _is_layers, "a layer's number or a list of them")
    layers = layers if isinstance(layers, list) else [layers]
    lists = fields.get("layers_pattern", [], _is_name_or_names, "names of module lists")
    if isinstance(lists, str):
        lists = [lists] if lists else []
    if (layers and targets_are_regex) or (lists and not layers):
        raise UserError(
            f"{fields.file}: layers_to_transform needs target_modules to be a list, and"
            " layers_pattern needs"
            " layers_to_transform (PEFT refuses the rest, too); write the layers into the regex"
        )
    if any(layer >= n_layers for layer in layers):
        raise UserError(
            f"{fields.file}: layers_to_transform has {show(max(layers))}; the model has {n_layers}"
            " layers"
        )
    # As PEFT matches: a layer's number follows the name of the list that it is in.
    number = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
    patterns = [fields.regex("layers_pattern", name, number) for name in lists if name]
    patterns = patterns or [re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")]

    def in_layers(name: str) -> bool:
        match = next(filter(None, (pattern.match(name) for pattern in patterns)), None)
        return not layers or (match is not None and int(match["idx"]) in layers)

    return in_layers


def saved_modules(fields: Fields, modules: Modules) -> list[str]:
    """Modules that modules_to_save names, and those inside them.

    PEFT compares the ends of paths, not whole names.
    """
    ends = tuple(fields.names("modules_to_save"))

    def is_saved(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[: i + 1]).endswith(ends) for i in range(len(parts)))

    return list(filter(is_saved, modules))


def trained_biases(
    fields: Fields, adapted: Iterable[str], modules: Modules, of_adapted: str
) -> dict[str, Leaf]:
    """{key: bias} in the folder: none, those of the adapted modules, or all of the model's.

    of_adapted: the value of `bias` that means the second. A model without biases has none to bring,
    whatever the config says; so it is in PEFT.
    """
    values = ("none", "all", of_adapted)
    value = fields.get("bias", "none", lambda x: x in values, f"'none', 'all' or {of_adapted!r}")
    adapted = set(adapted)
    having = {"none": set(), "all": set(modules), of_adapted: adapted}[value]
    names = [name for name in modules if name in having and modules[name].bias]
    if names and any(modules[name].bias for name in saved_modules(fields, modules)):
        raise UserError(
            f"{fields.file}: bias={value!r} beside"
            f" modules_to_save={show(fields.raw['modules_to_save'])}: both bring"
            " biases of this model; expected one of them"
        )
    # PEFT wraps an adapted module, whose own tensors then lie under base_layer.
    keys = {name: key_of(name, "base_layer.bias" if name in adapted else "bias") for name in names}
    return {keys[name]: modules[name].leaves()["bias"] for name in names}
