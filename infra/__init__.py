"""Where the system runs: Azure and one machine."""
