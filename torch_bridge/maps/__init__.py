"""One table a model: which torch tensor is which parameter."""
