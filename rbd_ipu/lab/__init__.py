"""What the paper reports and how to run it: presets, tables, figures."""
