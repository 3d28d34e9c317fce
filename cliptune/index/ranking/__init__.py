"""What is made of the nearest documents: groups, another order, variety.

`options.Ranking` is the manual.
"""
