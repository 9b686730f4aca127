"""The kinds of steps, one module each, behind one contract."""
