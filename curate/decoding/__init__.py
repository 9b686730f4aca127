"""Decodes untrusted pictures in processes of their own, which can be ended at any time; a fault costs one picture."""
