"""A published tokenizer restated in 30 lines, slowly and without a tokenizer library, to compare
with."""

from itertools import pairwise

import regex  # unlike re, it knows \p{L}

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_characters() -> dict[int, str]:
    """GPT-2's character for each byte."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def smollm2_ids(text: str, tokens: list[str], merges: list[str], special: list[str]) -> list[int]:
    """Tokenise by the book: special tokens, every digit apart, GPT-2's words, merges by rank."""
    id_of = {token: i for i, token in enumerate(tokens)}
    rank = {tuple(merge.split(" ")): i for i, merge in enumerate(merges)}
    spell = byte_characters()
    ids = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if part in special:
            ids.append(id_of[part])
            continue
        for run in regex.findall(r"\p{N}|\P{N}+", part):
            for word in regex.findall(GPT2_SPLIT, run):
                # The vocabulary lacks bytes that no text had (0x04, 0xFF, ...): they vanish before
                # merging.
                letters = [spell[b] for b in word.encode() if spell[b] in id_of]
                ids += [id_of[piece] for piece in _merged(letters, rank)]
    return ids


def _merged(pieces: list[str], rank: dict[tuple[str, str], int]) -> list[str]:
    while True:
        pairs = [(rank[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in rank]
        if not pairs:
            return pieces
        _, i = min(pairs)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
