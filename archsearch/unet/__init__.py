"""The thing searched: configuration, plan and module of a text-to-image UNet."""
