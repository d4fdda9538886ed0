"""Files: atomic writing, checked reading, checkpoints and training state."""
