"""The real environment, the drivers, and the worker processes that run them."""
