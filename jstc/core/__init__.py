"""What everything stands on: files, numbers, processes and signals, progress. Knows nothing of networks."""
