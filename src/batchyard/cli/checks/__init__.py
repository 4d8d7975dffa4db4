"""What `batchyard doctor` looks at: every check is a function that gives findings and changes nothing."""
