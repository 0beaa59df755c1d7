"""A search for the best learning rate, modules and rank, by successive halving on dev items."""
