"""What the kernel confines a pod's commands with; the standard library alone, for the keeper."""
