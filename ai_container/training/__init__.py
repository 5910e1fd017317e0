"""Training of the chest radiograph model (extra ``ai``, TensorFlow): ``python -m ai_container.training``."""
