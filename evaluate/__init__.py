"""Detections to numbers: suppression, mAP, tables and pictures. Never imports torch."""
