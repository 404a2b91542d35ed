"""A page for the browser: drop an image, see its labels."""
