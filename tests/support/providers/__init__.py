"""Stand-ins for model providers: real HTTP servers on loopback that speak their formats."""
