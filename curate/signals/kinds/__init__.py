"""The kinds of signals, a file each: the `SIGNAL` of a module here is found, and named nowhere else."""
