"""Specs of arrays, where they live on a mesh, and trees of them."""
