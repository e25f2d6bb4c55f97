"""Everything that only makes it faster."""
