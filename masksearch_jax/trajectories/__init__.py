"""Episodes on disk as a database: what training sampled and what evaluations scored, for search and for reading."""
