"""Cut networks mended in closed form: `walks` lead through a forward, `least_squares` fits a layer."""
