"""One URL to its bytes, within the rules of the open web."""
