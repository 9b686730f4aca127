"""Bytes of strangers to the picture that is stored."""
