"""Layers with the arithmetic that XLA does fast on a CPU, and their reference forms."""
