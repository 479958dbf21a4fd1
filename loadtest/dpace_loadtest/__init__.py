"""Load tests of a server: honest times under open-loop traffic, joined with acceptance."""
