"""Resource files, output files and logs on their way."""
