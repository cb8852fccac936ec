"""Captioned images and their text features, cached."""
