"""What the scripts share; each module is named for the one thing that it does."""
