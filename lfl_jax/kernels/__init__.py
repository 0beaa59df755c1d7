"""One folder per operation: a plain reference, and faster implementations beside it where a
measurement chose them."""
