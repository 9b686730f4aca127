"""Stored images → the input of the models: reads ahead, decodes in threads or processes, resizes and crops."""
