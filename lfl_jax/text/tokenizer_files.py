"""The files beside a vocabulary in a Hugging Face folder: settings, special and added tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfl_jax.core.files import read_json_object
from lfl_jax.errors import UserError

Settings = dict[str, Any]  # the fields of tokenizer_config.json and special_tokens_map.json
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found as a unit in any text.

    left, right: it takes the white space on that side with it.
    """

    id: int
    text: str
    special: bool
    left: bool = False
    right: bool = False
    normalized: bool = False
    single_word: bool = False

    @classmethod
    def from_json(cls, id_: int, fields: dict[str, Any]) -> "AddedToken":
        """An entry of `added_tokens_decoder`; KeyError and the like where it is malformed."""
        return cls(
            id_,
            text=str(fields["content"]),
            special=bool(fields.get("special")),
            left=bool(fields.get("lstrip")),
            right=bool(fields.get("rstrip")),
            normalized=bool(fields.get("normalized")),
            single_word=bool(fields.get("single_word")),
        )

    def as_json(self) -> dict[str, Any]:
        """The token as tokenizer.json lists it."""
        return {
            "id": self.id,
            "content": self.text,
            "lstrip": self.left,
            "rstrip": self.right,
            "single_word": self.single_word,
            "normalized": self.normalized,
            "special": self.special,
        }


def read_settings(folder: Path) -> Settings:
    """tokenizer_config.json with special_tokens_map.json, as far as they exist.

    As in transformers, the map decides unless the config lists the added tokens itself.
    """
    config, special_map = (
        read_json_object(folder / name) if (folder / name).is_file() else {}
        for name in SETTINGS_FILES
    )
    if "added_tokens_decoder" in config:
        return special_map | config
    return config | special_map


def token_text(settings: Settings, key: str) -> str | None:
    """The text of a special token: a string, or an object with `content`; None if unset."""
    value = settings.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str | None) or (value is not None and not _has_utf8(value)):
        raise UserError(f"tokenizer files: {key} is {value!r}; expected the text of a token")
    return value


def _has_utf8(text: str) -> bool:
    """Whether it has no half of a character, which libraries refuse each in its own way."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def with_eos(files: dict[str, bytes], eos: str) -> dict[str, bytes]:
    """A tokenizer's files with another EOS, in each file that transformers may take it from."""
    # Both files may name it, and which one decides depends on the version of transformers.
    changed = {}
    for name in SETTINGS_FILES:
        settings = json.loads(files.get(name, b"{}"))
        if "eos_token" in settings:
            text = json.dumps(settings | {"eos_token": eos}, indent=2, ensure_ascii=False)
            changed[name] = f"{text}\n".encode()
    return files | changed


def chat_template(folder: Path, settings: Settings) -> str | None:
    """Jinja source from chat_template.jinja or the settings; of several, the "default" one."""
    if (folder / "chat_template.jinja").is_file():
        file = folder / "chat_template.jinja"
        try:
            return file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 text ({error})") from error
    template = settings.get("chat_template")
    if isinstance(template, list):  # [{"name": ..., "template": ...}]
        entries = [entry for entry in template if isinstance(entry, dict)]
        by_name = {entry.get("name"): entry.get("template") for entry in entries}
        template = by_name.get("default")
        if template is None:
            raise UserError(f'{folder}: chat_template is a list without a template named "default"')
    if not isinstance(template, str | None):
        raise UserError(
            f"{folder}: chat_template is a {type(template).__name__}; expected Jinja source"
        )
    return template


def added_tokens(folder: Path, settings: Settings) -> list[AddedToken]:
    """Tokens added to the vocabulary, by id: from the settings, or else from added_tokens.json.

    Raises UserError for entries without an id or a text.
    """
    listed = settings.get("added_tokens_decoder")
    try:
        if listed is not None:
            tokens = [AddedToken.from_json(int(i), fields) for i, fields in listed.items()]
        elif (folder / "added_tokens.json").is_file():
            # This file has texts and ids only; which of them are special, the settings say.
            special = _special_texts(settings)
            tokens = [
                AddedToken(int(i), text, text in special, normalized=text not in special)
                for text, i in read_json_object(folder / "added_tokens.json").items()
            ]
        else:
            tokens = []
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{folder}: its list of added tokens is malformed; expected an id for every text"
        ) from None
    return sorted(tokens, key=lambda token: token.id)


def _special_texts(settings: Settings) -> set[str | None]:
    """Texts of all tokens that the settings name as special, one by one or in a list."""
    texts = set()
    # An entry is a text or an object; some files have an object of named tokens in place of a list.
    for key in SPECIAL_LISTS:
        tokens = settings.get(key) or []
        for token in tokens if isinstance(tokens, list) else ():
            texts.add(token.get("content") if isinstance(token, dict) else token)
    names = [key for key in settings if key.endswith("_token") and not key.startswith("add_")]
    return texts | {token_text(settings, key) for key in names}
