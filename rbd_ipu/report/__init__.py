"""``rbd-ipu report``: all results as one HTML page that needs nothing else, not even a network."""

from rbd_ipu.report.page import page

__all__ = ["page"]
