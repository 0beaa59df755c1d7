"""Plain data as bytes, and bytes as frames: all that passes between tests and untrusted code.

Pickle would run what it reads. This format can express data and nothing else, so decoding bytes
that hostile code wrote is safe: a tag of one byte, then the value, every length in decimal.

    N  T  F            None, True, False
    i<hex>;            int                       f<8 bytes>         float
    c<16 bytes>        complex                   r<hex>;<hex>;<hex>;  range
    s<length>;<utf-8>  str                       b, B<length>;<bytes>  bytes, bytearray
    l, t, S, z<count>;<values>                   list, tuple, set, frozenset
    d<count>;<key><value>...                     dict
    D<length>;decimal.Decimal:0.5                Decimal and Fraction, by their text
    g<length>;<name>   h<number>;                a reference: a global, or an object by its number

A subclass of int, list, dict and so on is sent as its base: what it overrides (`__eq__`) stays
behind. Standard library only, as `child` runs without anything else.
"""

import os
import struct
from collections.abc import Callable

Encode = Callable[[object], bytes]  # the bytes of a reference to an object that is no plain data
Resolve = Callable[[bytes, object], object]  # (tag, name or number) -> what a reference refers to

# Encoding.


def encode(value: object, reference: Encode | None) -> bytes:
    """The bytes of a value; `reference` encodes objects that are no plain data."""
    kind = type(value)
    if value is None or kind is bool:
        return b"N" if value is None else b"FT"[value : value + 1]
    for base, encoder in ENCODERS:
        if kind is base or isinstance(value, base):
            return encoder(value, reference)
    # By name: to import either would cost every program its import.
    if kind.__name__ in ("Decimal", "Fraction") and kind.__module__ in ("decimal", "fractions"):
        return b"D" + sized(f"{kind.__module__}.{kind.__name__}:{value}".encode())
    return reference(value)


def sized(data: bytes) -> bytes:
    """The length, then the data."""
    return b"%d;" % len(data) + data


def _series(tag: bytes) -> Callable[[object, Encode], bytes]:
    return lambda value, reference: (
        tag + b"%d;" % len(value) + b"".join([encode(item, reference) for item in list(value)])
    )


def _pairs(value: dict, reference: Encode) -> bytes:
    # dict.items, not value.items: a subclass may override it
    items = [part for pair in list(dict.items(value)) for part in pair]
    return b"d%d;" % len(items) + b"".join([encode(item, reference) for item in items])


ENCODERS = (
    (int, lambda value, reference: b"i%x;" % value),
    (float, lambda value, reference: b"f" + struct.pack("<d", value)),
    (str, lambda value, reference: b"s" + sized(value.encode("utf-8", "surrogatepass"))),
    (list, _series(b"l")),
    (tuple, _series(b"t")),
    (dict, _pairs),
    (set, _series(b"S")),
    (frozenset, _series(b"z")),
    (bytes, lambda value, reference: b"b" + sized(value)),
    (bytearray, lambda value, reference: b"B" + sized(bytes(value))),
    (complex, lambda value, reference: b"c" + struct.pack("<2d", value.real, value.imag)),
    (range, lambda value, reference: b"r%x;%x;%x;" % (value.start, value.stop, value.step)),
    (type({}.keys()), _series(b"S")),
)


# Decoding.


def decode(data: bytes, resolve: Resolve) -> object:
    """The value of these bytes; ValueError, IndexError, TypeError and the like where malformed."""
    return _Decoder(data, resolve).value()


class _Decoder:
    """Reads one value after another; every read is checked against the end of the data."""

    def __init__(self, data: bytes, resolve: Resolve) -> None:
        self.data, self.resolve = data, resolve
        self.position = 0

    def value(self) -> object:
        tag = self.take(1)
        if tag in CONTAINERS:
            items = [self.value() for _ in range(self.number())]
            return CONTAINERS[tag](items)
        if tag not in SCALARS:
            raise ValueError("no such kind of value")
        return SCALARS[tag](self)

    def take(self, count: int) -> bytes:
        start = self.position
        if not 0 <= count <= len(self.data) - start:
            raise ValueError("cut short")
        self.position += count
        return self.data[start : self.position]

    def number(self, base: int = 10) -> int:
        end = self.data.index(b";", self.position)
        return int(self.take(end + 1 - self.position)[:-1], base)

    def sized(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.sized().decode("utf-8", "surrogatepass")


def _dict(items: list) -> dict:
    return dict(zip(items[::2], items[1::2], strict=True))


def _exact(text: str) -> object:
    kind, _, digits = text.partition(":")
    if kind == "decimal.Decimal":
        from decimal import Decimal

        return Decimal(digits)
    from fractions import Fraction

    # Not Fraction(digits), which would work out 1e999999999.
    numerator, _, denominator = digits.partition("/")
    return Fraction(int(numerator), int(denominator or 1))


CONTAINERS = {b"l": list, b"t": tuple, b"S": set, b"z": frozenset, b"d": _dict}
SCALARS: dict[bytes, Callable[[_Decoder], object]] = {
    b"N": lambda read: None,
    b"T": lambda read: True,
    b"F": lambda read: False,
    b"i": lambda read: read.number(16),
    b"f": lambda read: struct.unpack("<d", read.take(8))[0],
    b"c": lambda read: complex(*struct.unpack("<2d", read.take(16))),
    b"r": lambda read: range(read.number(16), read.number(16), read.number(16)),
    b"s": _Decoder.text,
    b"b": _Decoder.sized,
    b"B": lambda read: bytearray(read.sized()),
    b"D": lambda read: _exact(read.text()),
    b"g": lambda read: read.resolve(b"g", read.text()),
    b"h": lambda read: read.resolve(b"h", read.number()),
}


# Frames: the length in 8 bytes, then the data.


def framed(data: bytes) -> bytes:
    """The data as a frame."""
    return struct.pack("<Q", len(data)) + data


def write(fd: int, data: bytes) -> None:
    """Write a frame."""
    unwritten = memoryview(framed(data))
    while unwritten:
        unwritten = unwritten[os.write(fd, unwritten) :]


def read(fd: int, limit: int, wait: Callable[[], None] = lambda: None) -> bytes:
    """The data of a frame; ValueError for more than `limit` bytes, EOFError where it is cut short.

    wait: called before every read, to do something else until there is data, or to give up.
    """
    (size,) = struct.unpack("<Q", _exactly(fd, 8, wait))
    if size > limit:
        raise ValueError("too much data")
    return _exactly(fd, size, wait)


def _exactly(fd: int, count: int, wait: Callable[[], None]) -> bytes:
    parts = []
    while count:
        wait()
        part = os.read(fd, min(count, 1 << 16))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
