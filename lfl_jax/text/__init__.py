"""Text in and out of a model: tokenizers and prompt templates."""
