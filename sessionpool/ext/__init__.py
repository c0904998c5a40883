"""Bridges to other libraries: each is an extra, and alone in importing its library."""
