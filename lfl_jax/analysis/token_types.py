"""What kind of token a token is, by named rules on its text and what stands around it.

The first rule of TYPES that holds decides, so that shares of types add up to 1. The rules are plain
and can be wrong for a single token; a type of one's own is an entry of a dict with the same form.
"""

import bisect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfl_jax.errors import UserError

WORD = re.compile(r"[^\W\d_]+")
# Bytes of a character that is split between tokens, as `Tokenizer.pieces` writes them.
BYTES = re.compile(r"(\\x[0-9a-f]{2})+")
# A line of a program: a keyword with its syntax, an operator or a call that prose has not.
CODE = re.compile(
    r"""^\s*(def|class)\ \w+.*[:({]\s*$ | ^\s*(import|from)\ [\w.]+(\ import\ .*)?\s*$
      | ^\s*(if|elif|for|while|with|try|else|except)\b.*:\s*$ | ^\s*(return|\#include|\}|\{)
      | [;{]\s*$ | [=!]= | [-=]> | \+= | :: | \w\.\w+\( | \w\(.*\)\s*$ | ^\s*\w+\ =\ \S""",
    re.VERBOSE,
)
ENDS_OF_SENTENCES = ".!?:\n"
# Rare are the least frequent words that together make up this share of a text's words.
RARE_SHARE = 0.1


@dataclass(frozen=True)
class Token:
    """A token in its text. word: the one that its first letter is of, "" without a letter.

    start, word_start: their first characters in `document`; end: the one after the token.
    is_special: BOS, EOS or padding, which are no part of the document.
    """

    text: str
    document: str
    start: int
    end: int
    word: str = ""
    word_start: int = 0
    is_rare: bool = False
    is_special: bool = False

    @property
    def line(self) -> str:
        """The line that it begins in."""
        # A token may begin with the end of the line before.
        own = self.document[self.start : self.end]
        at = self.start + len(own) - len(own.lstrip())
        begin = self.document.rfind("\n", 0, at) + 1
        end = self.document.find("\n", at)
        return self.document[begin : len(self.document) if end < 0 else end]

    @property
    def begins_sentence(self) -> bool:
        """Whether its word is the first of a sentence, as far as punctuation says."""
        before = self.document[max(self.word_start - 4, 0) : self.word_start].rstrip(" \"'“‘(")
        return not before or before[-1] in ENDS_OF_SENTENCES

    @property
    def is_name(self) -> bool:
        """Whether its word has a capital that no beginning of a sentence explains."""
        is_capital = self.word[:1].isupper() and self.word != "I"
        return is_capital and not self.begins_sentence

    @property
    def continues_word(self) -> bool:
        """Whether its word began in an earlier token."""
        return bool(self.word) and self.word_start < self.start


Predicate = Callable[[Token], bool]
TYPES: dict[str, Predicate] = {
    "special token": lambda token: token.is_special,
    "part of a character": lambda token: bool(BYTES.fullmatch(token.text.strip())),
    "white space": lambda token: not token.text.strip(),
    "code": lambda token: bool(CODE.search(token.line)),
    "number": lambda token: any(map(str.isdigit, token.text)),
    "punctuation": lambda token: not any(map(str.isalnum, token.text)),
    "name": lambda token: token.is_name,
    "rare word": lambda token: token.is_rare,
    "rest of a word": lambda token: token.continues_word,
    "word": lambda token: True,
}


def type_of(token: Token, types: Mapping[str, Predicate] = TYPES) -> str:
    """The first type whose rule holds; UserError where none does."""
    for name, holds in types.items():
        if holds(token):
            return name
    raise UserError(
        f"token {token.text!r} is of none of the types {', '.join(types)}; let the last one hold"
        " for every token"
    )


def words_of(text: str) -> list[str]:
    """Its words, in lower case."""
    return [word.lower() for word in WORD.findall(text)]


def rare_words(counts: Mapping[str, int], share: float = RARE_SHARE) -> Callable[[str], bool]:
    """Whether a word is rare: among the least frequent, or not counted at all.

    Rare are the words up to the highest count at which they make up no more than `share` of all;
    where already those of the lowest count are more, these. Of equal counts none is rare.
    """
    by_count = Counter[int]()
    for count in counts.values():
        by_count[count] += count
    levels = sorted(by_count)
    masses = np.cumsum([by_count[count] for count in levels])
    number = int(np.sum(masses <= share * masses[-1])) if levels else 0
    # In a short text most words occur once.
    number = max(number, int(len(levels) > 1))
    threshold = levels[number - 1] if number else 0
    return lambda word: counts.get(word.lower(), 0) <= threshold


def tokens_of(
    pieces: Sequence[str], special: Iterable[str], is_rare: Callable[[str], bool]
) -> list[Token]:
    """Tokens of a text from the texts of its tokens; special: those of special tokens."""
    special = set(special)
    contents = ["" if text in special else text for text in pieces]
    document, start = "".join(contents), 0
    words = _Words.of(document)
    tokens = []
    for text, content in zip(pieces, contents, strict=True):
        end = start + len(content)
        word, at = words.at(start, end)
        rare = bool(word) and is_rare(word)
        tokens.append(Token(text, document, start, end, word, at, rare, text in special))
        start = end
    return tokens


@dataclass(frozen=True)
class _Words:
    """The words of a text in their order, with the first character of each and the one after it."""

    words: list[str]
    starts: list[int]
    ends: list[int]

    @classmethod
    def of(cls, document: str) -> "_Words":
        matches = list(WORD.finditer(document))
        starts = [match.start() for match in matches]
        ends = [match.end() for match in matches]
        return cls([match[0] for match in matches], starts, ends)

    def at(self, start: int, end: int) -> tuple[str, int]:
        """(word, where it begins) of the first letter between two places; ("", end) without one."""
        # The first word that ends later than this begins.
        index = bisect.bisect_right(self.ends, start)
        if index == len(self.ends) or self.starts[index] >= end:
            return "", end
        return self.words[index], self.starts[index]
