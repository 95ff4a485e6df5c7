"""The version of this installation; `setup.cfg` reads it from here."""

VERSION = "0.1.0"
