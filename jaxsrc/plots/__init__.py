"""Pictures: the only rooms where matplotlib is imported, through its object interface and never through pyplot.

style   colours, line styles, and how a figure is made and saved
grids   the ARC gallery, and the sheaf energy over a grid
scores  bars per scale with intervals, and exact match against seconds
curves  training curves, as a figure and as SVG for the report page
"""
