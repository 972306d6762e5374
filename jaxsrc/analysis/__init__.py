"""Questions put to a trained transformer."""
