"""What lies beside a vocabulary in a Hugging Face folder: special tokens, added tokens, settings,
chat template."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.core.files import read_json_object
from lfl_jax.errors import UserError

Settings = dict[str, Any]  # the fields of tokenizer_config.json and special_tokens_map.json
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Added:
    """A token that is found whole in any text. left, right: it takes the white space on that side
    with it."""

    id: int
    text: str
    special: bool
    left: bool = False
    right: bool = False
    normalized: bool = False
    single_word: bool = False

    def as_json(self) -> dict[str, Any]:
        """The token as tokenizer.json lists it."""
        flags = {
            "single_word": self.single_word,
            "normalized": self.normalized,
            "special": self.special,
        }
        return {
            "id": self.id,
            "content": self.text,
            "lstrip": self.left,
            "rstrip": self.right,
        } | flags


def read_settings(folder: Path) -> Settings:
    """tokenizer_config.json with special_tokens_map.json, whichever are there.

    As in transformers, the map decides unless the config lists the added tokens itself.
    """
    config, named = (
        read_json_object(folder / name) if (folder / name).is_file() else {}
        for name in SETTINGS_FILES
    )
    return named | config if "added_tokens_decoder" in config else config | named


def token_text(settings: Settings, key: str) -> str | None:
    """The text of a special token, which files give as a string or as an object with `content`;
    None if unset."""
    value = settings.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str | None):
        raise UserError(f"tokenizer files: {key} is {value!r}; expected the text of a token")
    return value


def with_eos(files: dict[str, bytes], eos: str) -> dict[str, bytes]:
    """A tokenizer's files with another EOS, in each file that transformers may take it from."""
    changed = {}
    for name in SETTINGS_FILES:
        settings = json.loads(files.get(name, b"{}"))
        if "eos_token" in settings:
            changed[name] = (
                json.dumps(settings | {"eos_token": eos}, indent=2, ensure_ascii=False) + "\n"
            ).encode()
    return files | changed


def chat_template(folder: Path, settings: Settings) -> str | None:
    """Jinja source from chat_template.jinja or tokenizer_config.json; of several, the one called
    "default"."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {
            entry.get("name"): entry.get("template")
            for entry in template
            if isinstance(entry, dict)
        }
        template = named.get("default")
    if not isinstance(template, str | None):
        raise UserError(
            f"{folder}: chat_template is a {type(template).__name__}; expected Jinja source"
        )
    return template


def added_tokens(folder: Path, settings: Settings) -> list[Added]:
    """Tokens added to the vocabulary, by id: `added_tokens_decoder` of the settings, or else
    added_tokens.json.

    UserError for entries that name no id or no text.
    """
    listed = settings.get("added_tokens_decoder")
    try:
        if listed is not None:
            found = [_described(int(i), fields) for i, fields in listed.items()]
        elif (folder / "added_tokens.json").is_file():
            special = _special_texts(settings)
            tokens = read_json_object(folder / "added_tokens.json").items()
            found = [
                Added(int(i), text, text in special, normalized=text not in special)
                for text, i in tokens
            ]
        else:
            found = []
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{folder}: its list of added tokens is malformed; expected an id for every text"
        ) from None
    return sorted(found, key=lambda token: token.id)


def _described(id_: int, fields: dict[str, Any]) -> Added:
    flags = {
        ours: bool(fields.get(name)) for ours, name in (("left", "lstrip"), ("right", "rstrip"))
    }
    kinds = {name: bool(fields.get(name)) for name in ("special", "normalized", "single_word")}
    return Added(id_, str(fields["content"]), **flags, **kinds)


def _special_texts(settings: Settings) -> set[str]:
    """Texts of all tokens that the settings name as special, one by one or in a list."""
    lists = [
        settings.get(key) or [] for key in ("additional_special_tokens", "extra_special_tokens")
    ]
    listed = [token for tokens in lists if isinstance(tokens, list) for token in tokens]
    texts = {token.get("content") if isinstance(token, dict) else token for token in listed}
    names = [key for key in settings if key.endswith("_token") and not key.startswith("add_")]
    return texts | {token_text(settings, key) for key in names}
