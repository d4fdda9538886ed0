"""Where an agent loses points, and how well its dream predicts real drives."""
