"""`make bench`: the lab against a plain image, in one run, alternating, medians."""
