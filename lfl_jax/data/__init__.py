"""Data sources, packing and loading."""
