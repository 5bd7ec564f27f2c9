"""Distribution of slides over processes and machines, and the processes that own the networks."""
