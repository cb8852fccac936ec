"""Search spaces: a file of dimensions that yields UNet configurations."""
