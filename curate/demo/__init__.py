"""The demo: a small generated web of image-caption pairs with known ground truth, served on loopback addresses."""
