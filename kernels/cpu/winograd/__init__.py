"""3x3 and 5x5 convolutions by Winograd's minimal filtering."""
