"""Schema `app`, in numbered SQL files."""
