"""Plan: url lists or samples → parts, every row of the source once."""
