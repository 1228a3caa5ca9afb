"""What is trained: networks as ordered blocks with a head on top."""
