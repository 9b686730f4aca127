"""The kinds of signals, a file each: the registry finds the `SIGNAL` of every module in this package."""
