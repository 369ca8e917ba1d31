"""Rendered heads whose MediaPipe landmarks are exactly known at any pose."""
