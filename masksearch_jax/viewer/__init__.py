"""A page to read episodes in: a server on this machine, or one file that holds a sample."""
