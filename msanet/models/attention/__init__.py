"""Spatial attention (MSANet paper, equations 1 to 4): the operation, its chunked form, and the kernels to choose from."""
