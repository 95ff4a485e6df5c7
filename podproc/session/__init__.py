"""The writer of a pod's session log: append, sync, repair, cut."""
