"""Searches sets of items, such as evaluation sets, for the images of a run (`against` in the recipe)."""
