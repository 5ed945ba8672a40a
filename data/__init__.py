"""What a video, an annotation, a feature store and a batch are; and the built-in benchmark."""
