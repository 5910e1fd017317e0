"""Real senders against the running intake."""
