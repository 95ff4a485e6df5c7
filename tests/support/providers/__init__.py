"""Small real servers that speak the formats of model providers, driven by scripts."""
