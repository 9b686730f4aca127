"""The kinds of duplicates, one module each, behind the contract in `curate.duplicates`."""
