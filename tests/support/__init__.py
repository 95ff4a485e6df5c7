"""What tests share: a throw-away home, waiting with a deadline, and the gate that finds what was left behind."""
