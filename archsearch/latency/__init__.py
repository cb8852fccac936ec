"""Measured latency: tables, what measures them, and what an architecture takes by them."""
