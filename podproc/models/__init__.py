"""The adapters to model providers, one module each."""
