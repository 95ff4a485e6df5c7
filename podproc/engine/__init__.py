"""The turn loop and the pure decisions it asks for."""
