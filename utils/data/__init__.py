"""Episodes on disk, and the batches and start states made from them."""
