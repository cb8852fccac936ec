"""MobileDiffusion-Bench: networks of the quickstart's space with recorded scores."""
