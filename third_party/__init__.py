"""The manifest of what we use but did not write; installed as `lfl_jax.third_party`."""
