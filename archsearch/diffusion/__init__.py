"""Noise schedule, training and sampling of a small diffusion model."""
