"""Which torch tensor of a twin is which of our parameters; one table a model."""
