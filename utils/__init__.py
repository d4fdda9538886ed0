"""What the six scripts share: files, data, real drives and pictures."""
