"""The same run twice: the same bits, sane weights, one accuracy of network and file."""
