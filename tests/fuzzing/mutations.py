"""Mistakes in files by their structure: fields, types, numbers, offsets, and bytes."""

import copy
import json
import math
import random
import struct

DEEP = "@@nested 100000 deep@@"
INFINITE, NAN = math.inf, math.nan
# What stands where something else belongs.
VALUES = [
    None, True, False, "false", "true", "", "0", "nan", 0, 1, -1, 7, 0.5, -0.0, 1e308, 1e-320,
    NAN, INFINITE, -INFINITE, 2**31, 2**63, -(2**63), 10**400, [], {}, [[]], [None], [7], {"a": 1},
    {"content": 1}, "\ud83d", "a\x00b", "\x1b[2J", "../../etc/passwd", "x" * 3000, [1, "a", None],
    DEEP, ["a"] * 50, {"": ""}, "é\u202e", "/", "1e5",
]  # fmt: skip


def tree(rng, value):
    """A JSON value with one to three mistakes in places drawn at random."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        value = _once(rng, value)
    return value


def _once(rng, value):
    places = list(_places(value)) if isinstance(value, dict | list) else []
    if not places or rng.random() < 0.02:
        return _any_value(rng)
    container, key = rng.choice(places)
    match rng.choice(["replace", "replace", "replace", "drop", "add", "type", "number", "repeat"]):
        case "replace":
            container[key] = _any_value(rng)
        case "drop":
            del container[key]
        case "add" if isinstance(container, dict):
            container[rng.choice(["extra", "", "type", "\ud83d", "lora_bias"])] = _any_value(rng)
        case "add":
            container.insert(key, _any_value(rng))
        case "type":
            container[key] = _other_type(rng, container[key])
        case "number":
            container[key] = _other_number(rng, container[key])
        case "repeat" if isinstance(container, list):
            container += copy.deepcopy(container) * rng.choice([1, 39])
        case "repeat":
            container[f"{key}2"] = copy.deepcopy(container[key])
    return value


def _any_value(rng):
    # A copy: the next mistake may be inside of it.
    return copy.deepcopy(rng.choice(VALUES))


def _places(value):
    """(container, key) of every value inside."""
    stack = [value]
    while stack:
        container = stack.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            yield container, key
            if isinstance(container[key], dict | list):
                stack.append(container[key])


def _other_type(rng, value):
    choices = [repr(value)[:99], [value], {"value": value}]
    if isinstance(value, bool):
        choices += [str(value).lower(), int(value)]
    elif isinstance(value, int | float):
        choices += [repr(value)[:99], bool(value), float(value) if abs(value) < 1e300 else 1.0]
    elif isinstance(value, list):
        choices += [dict.fromkeys(map(str, value)), value[:1]]
    return rng.choice(choices)


def _other_number(rng, value):
    if isinstance(value, int | float) and not isinstance(value, bool):
        return rng.choice([-value, 0, value * 1000, value + 1, NAN, INFINITE, 10**30, value / 2])
    return _any_value(rng)


def text_of(value):
    """JSON as other programs may write it: NaN, huge numbers, halves of characters, deep nests."""
    text = json.dumps(value)
    return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def json_bytes(rng, value):
    """A mutated JSON document; of some, the text is damaged in place of, or besides, the tree."""
    data = text_of(tree(rng, value) if rng.random() < 0.85 else value)
    return damaged(rng, data) if rng.random() < 0.2 else data


def lines_bytes(rng, values):
    """JSON lines, of which one or more are mutated."""
    lines = [text_of(value) for value in values]
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(lines))
        lines[at] = json_bytes(rng, values[at])
    if rng.random() < 0.2:
        rng.shuffle(lines)
    ending = rng.choice([b"\n", b"\n", b"\r\n", b"\n\n"])
    data = ending.join(lines) + ending
    return damaged(rng, data) if rng.random() < 0.15 else data


def damaged(rng, data):
    """Bytes that were cut, changed, moved or written by another program."""
    data = bytearray(data)
    at = rng.randrange(len(data) + 1)
    match rng.choice(["cut", "flip", "flip", "insert", "drop", "zeros", "mark", "utf16", "twice"]):
        case "cut":
            del data[at:]
        case "flip" if data:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "insert":
            data[at:at] = rng.choice([b"\x00", b"\xff\xfe", b"[[[", b'"', b"NaN", b"\r", b"\x1b["])
        case "drop":
            del data[at : at + rng.choice([1, 4, 40])]
        case "zeros":
            size = len(data[at : at + 64])
            data[at : at + size] = rng.choice([b"\x00", b"\xff"]) * size
        case "mark":
            data[:0] = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\x00"])
        case "utf16":
            data = bytearray(bytes(data).decode("utf-8", "replace").encode("utf-16"))
        case "twice":
            data = data + bytes(data)
        case _:
            data = bytearray()
    if rng.random() < 0.03:
        data = bytearray()
    return bytes(data)


def safetensors_bytes(rng, data):
    """A safetensors file: its header's fields, its offsets, its metadata, or its numbers."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    match rng.choice(["header", "entry", "entry", "numbers", "numbers", "length", "bytes"]):
        case "header":
            header = tree(rng, header)
        case "entry":
            entry = header[rng.choice([name for name in header if name != "__metadata__"])]
            field = rng.choice(list(entry))
            entry[field] = _entry(rng, field, entry[field], len(body))
        case "numbers":
            _spoil_numbers(rng, body)
        case "length":
            length = rng.choice([0, 1, 2**31, 2**63, length + 1, len(data)])
            return struct.pack("<Q", length) + data[8:]
        case "bytes":
            return damaged(rng, data)
    text = text_of(header)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _entry(rng, field, value, end):
    match field:
        case "dtype":
            return rng.choice(["F64", "I32", "BOOL", "F8_E4M3", "bf16", "F16", 7])
        case "shape":
            return rng.choice([value[::-1], [*value, 1], value[1:], [2**40, 2**40], [0], [-1], "3"])
        case _:
            start, stop = value
            return rng.choice(
                [
                    [start + 1, stop + 1],
                    [0, stop - start],
                    [stop, start],
                    [start, end + 64],
                    [start],
                ]
            )


def _spoil_numbers(rng, body):
    for _ in range(rng.choice([1, 3])):
        if len(body) >= 4:
            at = rng.randrange(len(body) // 4) * 4
            number = rng.choice([NAN, INFINITE, -INFINITE, 3e38])
            body[at : at + 4] = struct.pack("<f", number)


# struct's code of a GGUF number
GGUF_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
GGUF_STRING, GGUF_ARRAY, F32 = 8, 9, 0


class Gguf:
    """A GGUF file as lists: fields (key, type, value), tensors [name, dims, kind, offset], data."""

    def __init__(self, fields, tensors):
        self.version, self.fields, self.tensors, self.data = 3, list(fields), [], b""
        for name, array in tensors.items():
            self.tensors.append([name, list(array.shape[::-1]), F32, len(self.data)])
            self.data += array.tobytes() + b"\0" * (-array.nbytes % 32)

    def to_bytes(self):
        """The file; its data begin at a multiple of 32."""
        out = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.fields))
        for key, kind, value in self.fields:
            out += _string(key) + struct.pack("<I", kind) + _value(kind, value)
        for name, dims, kind, offset in self.tensors:
            out += _string(name) + struct.pack("<I", len(dims))
            out += b"".join(struct.pack("<Q", size % 2**64) for size in dims)
            out += struct.pack("<IQ", kind, offset % 2**64)
        return out + b"\0" * (-len(out) % 32) + self.data


def _string(text):
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    if kind == GGUF_STRING:
        return _string(value)
    if kind == GGUF_ARRAY:
        item, values = value
        return struct.pack("<IQ", item, len(values)) + b"".join(_value(item, x) for x in values)
    return struct.pack("<" + GGUF_CODES[kind], value)


GGUF_NUMBERS = {
    "f": [0.0, -1.0, NAN, INFINITE, 1e38, 1e-40, 1.0],
    "I": [0, 1, 7, 2**31, 2**32 - 1, 33, 64],
    "i": [-1, 0, 2**31 - 1],
    "?": [True, False],
}


def gguf_bytes(rng, whole):
    """A GGUF file with wrong values, types, names, shapes, formats, offsets, numbers or bytes."""
    gguf = copy.deepcopy(whole)
    for _ in range(rng.choice([1, 1, 2])):
        match rng.choice(["field", "field", "type", "drop", "tensor", "tensor", "numbers"]):
            case "field":
                at = rng.randrange(len(gguf.fields))
                gguf.fields[at] = _other_field(rng, *gguf.fields[at])
            case "type":
                at = rng.randrange(len(gguf.fields))
                key = gguf.fields[at][0]
                gguf.fields[at] = rng.choice(
                    [(key, GGUF_STRING, "false"), (key, 6, NAN), (key, 7, True), (key, 5, -1),
                     (key, 4, 3), (key, GGUF_ARRAY, (4, [1, 2])), ("general.alignment", 4, 3)]
                )  # fmt: skip
            case "drop":
                rows = gguf.fields if rng.random() < 0.5 else gguf.tensors
                del rows[rng.randrange(len(rows))]
            case "tensor":
                _spoil_tensor(rng, gguf)
            case "numbers":
                body = bytearray(gguf.data)
                _spoil_numbers(rng, body)
                gguf.data = bytes(body)
    gguf.version = rng.choice([3] * 30 + [2, 1, 4, 0])
    data = gguf.to_bytes()
    return damaged(rng, data) if rng.random() < 0.15 else data


def _other_field(rng, key, kind, value):
    if kind == GGUF_STRING:
        return key, kind, rng.choice(["", "gpt2", "falcon", "\ud83d", "x" * 999, "yarn", "linear"])
    if kind == GGUF_ARRAY:
        item, values = value
        changed = list(values)
        if rng.random() < 0.5 and changed:
            at = rng.randrange(len(changed))
            changed[at] = changed[0] if item == GGUF_STRING else GGUF_NUMBERS[GGUF_CODES[item]][0]
        else:
            changed = rng.choice([[], changed[:-1], changed + changed[:1], changed[:3]])
        return key, kind, (item, changed)
    return key, kind, rng.choice(GGUF_NUMBERS[GGUF_CODES[kind]])


def _spoil_tensor(rng, gguf):
    row = rng.choice(gguf.tensors)
    match rng.choice(["offset", "offset", "shape", "kind", "name"]):
        case "offset":
            other = rng.choice(gguf.tensors)[3]
            row[3] = rng.choice([other, other + 32, row[3] + 1, row[3] + 4, 0, 2**63, row[3] + 64])
        case "shape":
            row[1] = rng.choice(
                [row[1][::-1], [*row[1], 1], [0], [2**62, 4], [], [1] * 5, [row[1][0] // 2, *row[1][1:]]]
            )  # fmt: skip
        case "kind":
            row[2] = rng.choice([1, 2, 3, 8, 12, 14, 28, 30, 77])
        case "name":
            row[0] = rng.choice(["", rng.choice(gguf.tensors)[0], "x", "blk.9.attn_q.weight"])


def generator(seed, reader, case):
    """The random numbers of one case, the same on every machine."""
    return random.Random(f"{seed} {reader} {case}")
