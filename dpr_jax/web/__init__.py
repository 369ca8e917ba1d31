"""The web app and its service."""
