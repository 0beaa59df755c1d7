"""The names that publishers give the splits of a dataset."""

# Split as the library `datasets` calls it -> words for it in names of files and folders.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Our split of each.
OURS = {"train": "train", "validation": "dev", "test": "test"}
OURS_BY_WORD = {word: OURS[split] for split, words in WORDS.items() for word in words}
