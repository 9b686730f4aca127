"""The kinds of signals, one module each: the registry finds the `SIGNAL` of every module in this package."""
