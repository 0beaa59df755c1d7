"""Grouped-query attention under an explicit mask."""
