"""Layers written for fast CPU execution under XLA: linear, convolution, LSTM."""
