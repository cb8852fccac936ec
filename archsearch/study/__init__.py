"""Studies: objectives, limits, trials, storage and the engines that run them."""
