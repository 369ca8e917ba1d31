"""Offline synthesis: portraits in, relit records out (Zhou et al. 2019, section 3.1)."""
