"""How a figure grows with the work: the exponent of a power law through the points, and how flat the cost of one unit stays.

Owns two formulas; knows nothing of tools or trees.
"""

import math


def exponent(points):
    """The slope of the least-squares line through (log x, log y): 1 is linear, 0 is flat. None for fewer than two points above zero."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    middle_x, middle_y = (sum(values) / len(logs) for values in zip(*logs))
    return sum((x - middle_x) * (y - middle_y) for x, y in logs) / sum((x - middle_x) ** 2 for x, _ in logs)


def dearer(points):
    """By how much a unit costs more where most are done than where it cost least before: 0.1 is a tenth more, below 0 is cheaper."""
    each = [y / x for x, y in sorted(points) if x > 0]
    return each[-1] / min(each[:-1]) - 1 if len(each) > 1 and min(each[:-1]) > 0 else None
