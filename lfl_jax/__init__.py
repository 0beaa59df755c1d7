"""Low-rank adapters against full finetuning: what is learned, what is forgotten."""
