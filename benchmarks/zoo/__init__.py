"""Small networks of this project's own, for experiments that must run anywhere."""
