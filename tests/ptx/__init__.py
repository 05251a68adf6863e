"""A functional executor of PTX for sm_90a, for tests. See README.md."""
