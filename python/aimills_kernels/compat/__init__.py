"""FlashAttention's interfaces on this library: a user changes one import."""
