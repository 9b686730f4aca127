"""Signals: columns by pair, computed from captions and stored embeddings; never from an image."""
