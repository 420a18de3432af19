"""Matrix products, and the 1x1 convolutions that are such products."""
