"""The built-in kinds of pixel scorers, one module each; they are computed where a step reads their columns."""
