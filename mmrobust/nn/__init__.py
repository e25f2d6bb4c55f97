"""Layers shared by components: attention with its backends, gradient reversal, Transformer blocks."""
