"""One agent in one process."""
