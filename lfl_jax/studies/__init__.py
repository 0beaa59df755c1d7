"""Many runs as one experiment, and the records that it rests on, also those of other programs."""
