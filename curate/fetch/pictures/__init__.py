"""Received bytes → the picture that is stored: type, limits, blocklist, decoding, resizing, encoding."""
