"""The world model in pure JAX: the VAE (V), the MDN-RNN (M), the controller (C) and the dream."""
