"""What a run starts from: a base model, an adapter, an earlier run."""
