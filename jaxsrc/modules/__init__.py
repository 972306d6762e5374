"""Numerical cores: arrays in, arrays out, each one idea."""
