"""The session log as a format: lines, entries in order, what they amount to, where they lie."""
