"""Runnable configs; installed as lfl_jax.configs."""
