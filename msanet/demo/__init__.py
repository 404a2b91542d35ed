"""A page for the browser: drop an image, see what the network makes of it."""
