"""Loaders of posed views, the pairs drawn from them, and the embedded data in the same layouts."""
