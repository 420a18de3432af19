"""Convolutions with few weights: vectors run along channels, pixel after pixel."""
