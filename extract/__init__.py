"""Videos to feature stores: decoding, clips, modalities, backbones."""
