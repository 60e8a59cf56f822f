"""Generator of the reference pages that follow from the code: the command line and the plan."""
