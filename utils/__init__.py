"""What the six scripts share: one module for one thing each."""
