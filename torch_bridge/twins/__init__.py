"""The torch module of each model that is exported, named as its weight map names it; one file a model."""
