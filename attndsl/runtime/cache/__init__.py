"""What outlives a process: tuned configurations, one JSON file a key, in a folder that is the user's alone."""
