"""The fleet: who lives, who may write where, and what an operator sees."""
