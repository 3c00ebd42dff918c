"""What is fast and by how much, each against a peer or a limit, in one run."""
