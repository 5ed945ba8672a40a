"""A report as one HTML page: no network, no server, no library; and the same charts as PNG."""
