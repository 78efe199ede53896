"""Layers whose products are made on the chip, and where their weights lie."""
