"""The built-in benchmark: a rendered, seeded, versioned world of videos with annotations."""
