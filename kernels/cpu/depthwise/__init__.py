"""Depthwise convolutions, and groups of a few channels."""
