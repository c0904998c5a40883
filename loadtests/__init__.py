"""Measurements, not tests: what the clients cost side by side, and the servers they are measured against."""
