"""A face in a photo, found, cut out, relit and put back."""
