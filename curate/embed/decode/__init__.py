"""Stored images → what the models take: read ahead, decoded in threads or processes, prepared."""
