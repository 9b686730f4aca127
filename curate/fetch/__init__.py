"""Fetching: URLs of strangers in, normalised pictures out, one row for every image."""
