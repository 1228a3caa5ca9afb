"""What the networks see: images in memory, and how they are split."""
