"""The world model: V sees, M remembers and predicts, C acts. Pure JAX: no files, no environment."""
