"""Hand a chosen architecture on in another format."""
