"""Published multimodal fusion models as components for mmrobust, a file for each model."""
