"""Stored images → the input of the models: reads ahead, decodes in processes, resizes and crops."""
