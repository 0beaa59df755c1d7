"""The figures of a run, and what a reader must know before believing its results, as text."""

from collections.abc import Mapping
from typing import Any


def figures(facts: Mapping[str, Any]) -> dict[str, str]:
    """{name: figure} of the training itself."""
    # A rank that differs between layers is padded to the largest: stored, but never trained.
    rate, padding = facts["tokens_per_s"], facts["trainable_stored"] - facts["trainable"]
    device = facts["peak_device_bytes"]
    minutes, seconds = divmod(int(facts["wall_seconds"]), 60)
    stored = f" ({padding:,} more stored as padding)" if padding else ""
    on_device = f" host, {device / 2**30:.2f} GiB device" if device else ""
    return {
        "trainable parameters": f"{facts['trainable']:,}{stored}",
        "steps": f"{facts['steps']:,}",
        "tokens/s in training": "not timed" if rate is None else f"{rate:,.0f}",
        "peak memory": f"{facts['peak_host_bytes'] / 2**30:.2f} GiB{on_device}",
        "wall time": f"{minutes} min {seconds} s",
        "device": facts["device"],
    }


def flags(provenance: Mapping[str, Any]) -> list[str]:
    """Reservations about the results, from the origin of base and training data, and warnings."""
    base, data = provenance["base"], provenance.get("data")
    notes: list[str] = []
    if base["dequantised_from"]:
        rounded = f"the base's weights were rounded to {base['dequantised_from']}"
        notes.append(f"{rounded}: its scores are not the original's")
    if base["source"].startswith("random"):
        notes.append(f"the base has {base['source']}: its scores mean nothing")
    # A source in the package replaces a corpus of the paper; replay and sham arms are named, too.
    named = ("synthetic", "stand_in_for", "parts", "responses_shuffled")
    if data and any(map(data.get, named)):
        notes.append(f"training source is {data['description']}")
    if start := provenance.get("start"):
        began = f"training began from the adapter {start['adapter']} ({start['use']})"
        notes.append(f"{began}; before is the base without it")
    if diverged := provenance.get("diverged"):
        notes.append(diverged)
    return notes + provenance.get("warnings", [])
