"""The tests, by package; what they share is in `tests.support`."""
