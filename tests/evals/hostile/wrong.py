"""What a hostile program ends with, so that the tests have a function to call."""

WRONG = "\ndef f(x):\n    return 0\n"
