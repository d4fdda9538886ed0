"""Episodes: from files to what V, M and the dream learn from and start at."""
