"""Files of any content: written whole or not at all, and read with suspicion."""
