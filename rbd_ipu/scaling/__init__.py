"""A model of the time that a step of K workers takes: compute, drawing of bases, exchange. Pure functions."""
