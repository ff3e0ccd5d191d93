"""Where images come from: one file for each form in which data sets are stored."""
