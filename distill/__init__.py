"""Features to detections: heads, the decomposed model, its losses, training and prediction."""
