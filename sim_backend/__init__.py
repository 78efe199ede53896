"""The emulated chip: device physics, converters, tiles, the firmware's dispatcher and a server."""
