"""Board profiles, links and the driver: what the program above sees of a chip."""
