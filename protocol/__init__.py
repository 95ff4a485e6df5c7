"""What is said between processes: values in, values out."""
