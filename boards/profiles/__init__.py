"""Folder of the built-in profiles; one YAML file a board."""
