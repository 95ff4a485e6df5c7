"""The tools a pod gives its model."""
