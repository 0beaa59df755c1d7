"""Models as functions of a parameter tree and an adapter tree."""
