"""Photo files, colour, ratio images, pictures for people."""
