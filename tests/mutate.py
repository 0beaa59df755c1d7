"""Damage to files, drawn by hypothesis: bytes changed, cut off, taken out, or numbers put where
none belong."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

RELAXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SHORT = settings(max_examples=170, deadline=None, suppress_health_check=RELAXED, derandomize=True)
LONG = settings(max_examples=6700, deadline=None, suppress_health_check=RELAXED)
INSERTED = [b"-1", b"1e400", b"99999999999", b"null", b"NaN", b'"', b"[[[", b"\xff" * 8, b"\0" * 4]


def mutated(draw, data, within=1500):
    """The bytes with one to three mistakes in the first `within`, where headers are."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(min(len(data), within) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "drop", "insert"])):
            case "flip" if data:
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at : at + 1] = draw(st.sampled_from(INSERTED))
    return bytes(data)
