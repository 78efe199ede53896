"""Characterisation of devices: from measured pulse responses to the parameters of a model."""
