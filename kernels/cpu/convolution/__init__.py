"""Convolution: which algorithm serves a call, and those that serve any geometry."""
