"""`make bench`: what a move costs, as ratios within one run."""
