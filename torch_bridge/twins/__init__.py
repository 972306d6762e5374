"""The torch module of each exported model, named as its weight map names it."""
