"""The command `kd`. Everything it does is in kdcore; this package reads flags and prints."""
