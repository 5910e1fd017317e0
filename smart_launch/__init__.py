"""A SMART App Launch 2.2 client as a Flask blueprint."""
