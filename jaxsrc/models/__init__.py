"""One network a file; its configuration stands above its class."""
