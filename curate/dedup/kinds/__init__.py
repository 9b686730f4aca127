"""The kinds of duplicates, a file each, behind the contract in `curate.duplicates`."""
