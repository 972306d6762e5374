"""Weights between sheaf's models and PyTorch; the only package of the project that imports torch."""
