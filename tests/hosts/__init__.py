"""Real hosts, and what they share: the job directory, installing, a daemon to talk to."""
