"""jstc: joint search-and-training of smaller networks."""
