"""The one-command local stack and its sandbox EHR."""
