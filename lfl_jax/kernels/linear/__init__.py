"""y = x W with the backward products written the way XLA runs them fastest."""
