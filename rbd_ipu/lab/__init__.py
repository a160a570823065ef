"""The lab: the paper's tables and figures, searches for learning rates, measurements of speed, the report.

What the paper reports and how to run it: presets, tables, figures.
"""
