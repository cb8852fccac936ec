"""Neural architecture search for text-to-image UNets that must run on phones."""

__version__ = "0.1.0"
