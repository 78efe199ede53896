"""What a chip's converters do wrong: measured once, then taken out of its products."""
