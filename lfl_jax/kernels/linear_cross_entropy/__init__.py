"""Cross-entropy of a linear head without the (B, T, V) logits."""
