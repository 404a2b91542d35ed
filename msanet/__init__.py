"""MSANet at scale: a training system for semantic segmentation."""

__version__ = "0.1.0"
