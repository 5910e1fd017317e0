"""The Flask app for doctors and admins."""
