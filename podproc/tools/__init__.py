"""What a model may call, and the cage around it."""
