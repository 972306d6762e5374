"""What is exported of each kind of run."""
