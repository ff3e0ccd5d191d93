"""The tests, a folder for every part of jstc, and a few that look across all of it."""
