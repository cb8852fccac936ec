"""Measured latency: tables, the tool that builds them, and the price of an architecture from them."""
