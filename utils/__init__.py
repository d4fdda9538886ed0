"""What the six scripts share: settings, files, data, the real environment and figures."""
