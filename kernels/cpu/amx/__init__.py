"""Products on the AMX tiles of recent Intel processors, and the convolutions that they serve."""
