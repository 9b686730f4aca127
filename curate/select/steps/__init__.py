"""The kinds of steps, a file each, behind one contract."""
