"""Max, average and unpooling."""
