"""The forms of a model's name and of its weights in a recipe; imports nothing heavy."""

from pathlib import Path

POCKET = Path(__file__).parents[2] / "models" / "pocket"
"""The built-in model: an open_clip config and safetensors, loaded as from any other path."""

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin")
"""A name of weights that ends so is a file; another one is an open_clip tag or a folder."""

HUB = "hf-hub:"
"""Prefix of open_clip's names of models on the Hugging Face hub, which have config and weights in one folder."""

MODEL_KEY = "models.<name>"
"""The key of a model in a recipe, for messages of callers that do not give one."""
