"""`python -m supervisor.cli`, for an interpreter in which `podsup` is not installed as a script."""

from supervisor.cli import main

main()
