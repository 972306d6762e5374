"""Solving one ARC task: canvas hypotheses, sections over the canvas, and a closed-form extension chosen by leave-one-out.

canvas    where the output's cells come from: maps from an input grid to a stack of layers of the output's size
objects   connected components of a grid and what can be said of each
sections  parameter-free sections over the canvas, in groups, and the colour sources a cell may copy from
readout   colours of cells from extended values, constant or copied
keys      equal cells gathered into one weighted key
selection greedy choice of section groups by closed-form leave-one-demonstration-out error
solve     a task in, ranked candidate answers out
"""
