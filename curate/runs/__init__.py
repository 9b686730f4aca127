"""Runs: passes and their folders, units of work, retries, and the identity of a run. No module here names a pass."""
