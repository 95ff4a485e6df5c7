"""The fleet's decisions as pure functions: a stimulus and a time in, instructions out."""
