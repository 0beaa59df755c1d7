"""The results of a run and of a study, for people and for programs."""
