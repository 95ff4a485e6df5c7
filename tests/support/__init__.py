"""What tests share: a throw-away home, waiting with a deadline, the gate that finds leaks."""
