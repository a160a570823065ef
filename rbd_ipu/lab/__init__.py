"""The lab: the paper's tables and figures, searches for learning rates, measurements of speed, the report."""
