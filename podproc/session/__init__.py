"""A pod's durable history: append, repair, replay, rewind."""
