"""The page that relights portraits in the visitor's browser, and needs no server but one of files."""
