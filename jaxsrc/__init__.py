"""Sheaf: small reasoning models in JAX.

One alphabet of axes for every shape in the project:

    b  tasks or samples of a batch      p  pairs of a task, demonstrations    h w  rows and columns of a grid
    n  known cells, keys                m q  cells asked for, queries         d  features of a cell
    s  colour sources                   v  values extended, variants, views   k  features of a key
    e  stalk of an edge                 c  colours, classes, channels         l  layers
    r  readouts                         t  tokens, time
"""

__version__ = "0.1.0"
